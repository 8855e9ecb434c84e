// Floating-point functions. half and bfloat go through float.
namespace emu {
#ifdef __FAST_MATH__
constexpr bool fast_math = true;
#else
constexpr bool fast_math = false;
#endif
// Whether a name without a namespace is fast:: or precise::.
#ifdef EMU_FAST_FUNCTIONS
constexpr bool fast_functions = true;
#else
constexpr bool fast_functions = false;
#endif

// Fast math promises that no argument is infinite or NaN; a kernel that breaks the promise must not get away with it.
inline float promised_finite(float x) { return fast_math ? emu_promised_finite(x) : x; }

template <class T, class F> T map(T x, F f) { return (T)f((float)x); }
template <class T, int N, class F> vec<T, N> map(vec<T, N> x, F f) {
    vec<T, N> result;
    for (int i = 0; i < N; ++i)
        result[i] = (T)f((float)x[i]);
    return result;
}
template <class T, class F> T map(T x, T y, F f) { return (T)f((float)x, (float)y); }
template <class T, int N, class F> vec<T, N> map(vec<T, N> x, vec<T, N> y, F f) {
    vec<T, N> result;
    for (int i = 0; i < N; ++i)
        result[i] = (T)f((float)x[i], (float)y[i]);
    return result;
}

template <class T> struct is_float {
    static constexpr bool value = false;
};
template <> struct is_float<float> {
    static constexpr bool value = true;
};
template <> struct is_float<half> {
    static constexpr bool value = true;
};
template <> struct is_float<bfloat> {
    static constexpr bool value = true;
};
template <class T> constexpr bool is_float_v = is_float<typename metal::vector_traits<T>::element>::value;
template <class T> using floating = metal::enable_if_t<is_float_v<T>, T>;
template <class T> using integral = metal::enable_if_t<!is_float_v<T>, T>;
template <class T, class R> using if_floating = metal::enable_if_t<is_float_v<T>, R>;
} // namespace emu

namespace metal {
#define EMU_UNARY(name, expression)                                          \
    template <class T> emu::floating<T> name(T value) {                      \
        return emu::map(value, [](float x) -> float { return expression; }); \
    }
#define EMU_BINARY(name, expression)                                                          \
    template <class T> emu::floating<T> name(T first, T second) {                             \
        return emu::map(first, second, [](float x, float y) -> float { return expression; }); \
    }
// Functions that exist in fast:: and precise::, of which the plain name is one or the other.
#define EMU_TWO_UNARY(name, expression)             \
    namespace precise {                             \
    EMU_UNARY(name, expression)                     \
    }                                               \
    namespace fast {                                \
    EMU_UNARY(name, emu::emu_perturb(expression))   \
    }                                               \
    template <class T> emu::floating<T> name(T x) { \
        if constexpr (emu::fast_functions)          \
            return fast::name(x);                   \
        else                                        \
            return precise::name(x);                \
    }
#define EMU_TWO_BINARY(name, expression)                 \
    namespace precise {                                  \
    EMU_BINARY(name, expression)                         \
    }                                                    \
    namespace fast {                                     \
    EMU_BINARY(name, emu::emu_perturb(expression))       \
    }                                                    \
    template <class T> emu::floating<T> name(T x, T y) { \
        if constexpr (emu::fast_functions)               \
            return fast::name(x, y);                     \
        else                                             \
            return precise::name(x, y);                  \
    }

EMU_TWO_UNARY(exp, emu::emu_exp(emu::promised_finite(x)))
EMU_TWO_UNARY(exp2, emu::emu_exp2(emu::promised_finite(x)))
EMU_TWO_UNARY(exp10, emu::emu_exp10(emu::promised_finite(x)))
EMU_TWO_UNARY(log, __builtin_logf(x))
EMU_TWO_UNARY(log2, __builtin_log2f(x))
EMU_TWO_UNARY(log10, __builtin_log10f(x))
EMU_TWO_UNARY(tanh, __builtin_tanhf(x))
EMU_TWO_UNARY(sin, __builtin_sinf(x))
EMU_TWO_UNARY(cos, __builtin_cosf(x))
EMU_TWO_UNARY(sqrt, __builtin_sqrtf(x))
EMU_TWO_UNARY(rsqrt, 1.0f / __builtin_sqrtf(x))
EMU_TWO_BINARY(divide, x / y)
EMU_TWO_BINARY(pow, __builtin_powf(x, y))

EMU_UNARY(fabs, __builtin_fabsf(x))
EMU_UNARY(abs, __builtin_fabsf(x))
EMU_UNARY(floor, __builtin_floorf(x))
EMU_UNARY(ceil, __builtin_ceilf(x))
EMU_UNARY(trunc, __builtin_truncf(x))
EMU_UNARY(round, __builtin_roundf(x))
EMU_UNARY(rint, __builtin_rintf(x))
EMU_UNARY(sign, x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : 0.0f)
EMU_UNARY(saturate, __builtin_fminf(__builtin_fmaxf(x, 0.0f), 1.0f))
EMU_BINARY(fmin, __builtin_fminf(x, y))
EMU_BINARY(fmax, __builtin_fmaxf(x, y))
EMU_BINARY(min, __builtin_fminf(x, y))
EMU_BINARY(max, __builtin_fmaxf(x, y))
EMU_BINARY(fmod, __builtin_fmodf(x, y))
EMU_BINARY(copysign, __builtin_copysignf(x, y))
#undef EMU_UNARY
#undef EMU_BINARY
#undef EMU_TWO_UNARY
#undef EMU_TWO_BINARY

template <class T> emu::floating<T> clamp(T x, T low, T high) { return min(max(x, low), high); }
template <class T> emu::floating<T> mix(T x, T y, T weight) { return x + (y - x) * weight; }

template <class T> emu::floating<T> fma(T x, T y, T z) { return (T)__builtin_fmaf((float)x, (float)y, (float)z); }
template <class T, int N> vec<T, N> fma(vec<T, N> x, vec<T, N> y, vec<T, N> z) {
    vec<T, N> result;
    for (int i = 0; i < N; ++i)
        result[i] = (T)__builtin_fmaf((float)x[i], (float)y[i], (float)z[i]);
    return result;
}

template <class T, int N> T dot(vec<T, N> x, vec<T, N> y) {
    T result = x[0] * y[0];
    for (int i = 1; i < N; ++i)
        result += x[i] * y[i];
    return result;
}

inline float ldexp(float x, int exponent) { return __builtin_ldexpf(x, exponent); }
inline int ilogb(float x) { return __builtin_ilogbf(x); }

#ifdef __FAST_MATH__
template <class T> emu::if_floating<T, bool> isnan(T) { return false; }
template <class T> emu::if_floating<T, bool> isinf(T) { return false; }
template <class T> emu::if_floating<T, bool> isfinite(T) { return true; }
#else
template <class T> emu::if_floating<T, bool> isnan(T x) { return __builtin_isnan((float)x); }
template <class T> emu::if_floating<T, bool> isinf(T x) { return __builtin_isinf((float)x); }
template <class T> emu::if_floating<T, bool> isfinite(T x) { return __builtin_isfinite((float)x); }
#endif
template <class T> emu::if_floating<T, bool> signbit(T x) { return __builtin_signbit((float)x); }
} // namespace metal
