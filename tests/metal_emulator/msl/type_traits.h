// metal_type_traits
namespace metal {
template <class T, T Value> struct integral_constant {
    using value_type = T;
    using type = integral_constant;
    static constexpr __constant T value = Value;
    constexpr operator T() const { return Value; }
};
template <bool Value> using bool_constant = integral_constant<bool, Value>;
using true_type = bool_constant<true>;
using false_type = bool_constant<false>;

template <class A, class B> struct is_same : bool_constant<__is_same(A, B)> {};
template <class A, class B> constexpr __constant bool is_same_v = __is_same(A, B);
template <class T> struct is_integral : bool_constant<__is_integral(T)> {};
template <class T> constexpr __constant bool is_integral_v = __is_integral(T);
template <class T> struct is_floating_point : bool_constant<__is_floating_point(T)> {};
template <class T> constexpr __constant bool is_floating_point_v = __is_floating_point(T);

template <class T> struct remove_cv {
    using type = __remove_cv(T);
};
template <class T> using remove_cv_t = __remove_cv(T);
template <class T> struct remove_reference {
    using type = __remove_reference_t(T);
};
template <class T> using remove_reference_t = __remove_reference_t(T);

template <class T> struct remove_addrspace {
    using type = T;
};
template <class T> struct remove_addrspace<__global T> {
    using type = T;
};
template <class T> struct remove_addrspace<__constant T> {
    using type = T;
};
template <class T> struct remove_addrspace<__local T> {
    using type = T;
};
template <class T> struct remove_addrspace<__private T> {
    using type = T;
};
template <class T> struct remove_addrspace<__generic T> {
    using type = T;
};
template <class T> using remove_addrspace_t = typename remove_addrspace<T>::type;

template <bool Condition, class A, class B> struct conditional {
    using type = A;
};
template <class A, class B> struct conditional<false, A, B> {
    using type = B;
};
template <bool Condition, class A, class B> using conditional_t = typename conditional<Condition, A, B>::type;

template <bool Condition, class T = void> struct enable_if {};
template <class T> struct enable_if<true, T> {
    using type = T;
};
template <bool Condition, class T = void> using enable_if_t = typename enable_if<Condition, T>::type;
} // namespace metal
