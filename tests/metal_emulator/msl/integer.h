// Integer functions, and those that take any type.
namespace metal {
template <class T> emu::integral<T> min(T x, T y) { return x < y ? x : y; }
template <class T> emu::integral<T> max(T x, T y) { return x > y ? x : y; }
template <class T> emu::integral<T> clamp(T x, T low, T high) { return min(max(x, low), high); }
template <class T> emu::integral<T> abs(T x) { return x < 0 ? -x : x; }

inline uint popcount(uint x) { return __builtin_popcount(x); }
inline uint clz(uint x) { return x ? __builtin_clz(x) : 32; }
inline uint ctz(uint x) { return x ? __builtin_ctz(x) : 32; }
inline uint mulhi(uint x, uint y) { return (uint)((ulong)x * y >> 32); }
inline int mulhi(int x, int y) { return (int)((long)x * y >> 32); }
inline uint rotate(uint x, uint count) { return x << (count & 31) | x >> (-count & 31); }
inline uint reverse_bits(uint x) { return __builtin_bitreverse32(x); }
inline uint extract_bits(uint x, uint offset, uint bits) {
    return bits == 0 ? 0 : x << (32 - offset - bits) >> (32 - bits);
}

template <class T> T select(T if_false, T if_true, bool condition) { return condition ? if_true : if_false; }
template <class T, class C, int N> vec<T, N> select(vec<T, N> if_false, vec<T, N> if_true, vec<C, N> condition) {
    for (int i = 0; i < N; ++i)
        if_false[i] = condition[i] ? if_true[i] : if_false[i];
    return if_false;
}
inline bool any(bool x) { return x; }
inline bool all(bool x) { return x; }
template <class C, int N> bool any(vec<C, N> x) {
    bool result = false;
    for (int i = 0; i < N; ++i)
        result = result || x[i];
    return result;
}
template <class C, int N> bool all(vec<C, N> x) {
    bool result = true;
    for (int i = 0; i < N; ++i)
        result = result && x[i];
    return result;
}
} // namespace metal
