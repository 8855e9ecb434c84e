// Construction and conversion: the transform writes emu::make<T>(...) for T(...).
namespace emu {
template <class R> struct maker {
    template <class... A> static R of(A... parts) { return R(parts...); }
};

template <class T, int N> struct maker<vec<T, N>> {
    static vec<T, N> of() { return (vec<T, N>)(T)0; }
    template <class S> static vec<T, N> of(S scalar) { return (vec<T, N>)(T)scalar; }
    template <class S> static vec<T, N> of(vec<S, N> other) { return __builtin_convertvector(other, vec<T, N>); }
    template <class A, class B, class... More> static vec<T, N> of(A first, B second, More... more) {
        static_assert(width<A> + width<B> + (width<More> + ... + 0) == N, "as many components as the vector has");
        vec<T, N> result;
        int next = 0;
        append(result, next, first);
        append(result, next, second);
        (append(result, next, more), ...);
        return result;
    }

  private:
    template <class A> static constexpr int width = metal::vector_traits<A>::width;
    template <class S> static void append(__private vec<T, N> &result, __private int &next, S scalar) {
        result[next++] = (T)scalar;
    }
    template <class S, int M> static void append(__private vec<T, N> &result, __private int &next, vec<S, M> part) {
        for (int i = 0; i < M; ++i)
            result[next++] = (T)part[i];
    }
};

template <class R, class... A> R make(A... parts) { return maker<R>::of(parts...); }
} // namespace emu

namespace metal {
template <class R, class S> R as_type(S value) {
    static_assert(sizeof(R) == sizeof(S), "as_type keeps the size");
    return __builtin_bit_cast(R, value);
}
} // namespace metal
