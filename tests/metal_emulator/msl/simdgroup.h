// Operations among the 32 lanes of a simdgroup.
namespace emu {
enum { simd_width = 32, nobody = simd_width, result = simd_width + 1 }; // places in what an exchange returns

template <class T> T *exchange(T value, const __constant char *what, const __constant char *file, int line) {
    static_assert(sizeof(T) <= 16, "a simdgroup exchanges scalars and vectors");
    return (T *)emu_exchange(&value, sizeof(T), what, file, line);
}

inline int lane() { return (int)emu_position(EMU_THREAD_INDEX_IN_SIMDGROUP, 0); }

template <class T> T from_lane(T value, int source, const __constant char *what, EMU_SITE) {
    T *values = exchange(value, what, file, line);
    return values[source < 0 || source >= simd_width ? (int)nobody : source];
}

// Folds the values of the lanes first, first + step, ... that take part.
template <class T, class F> T reduce(T value, F fold, const __constant char *what, EMU_SITE) {
    T *values = exchange(value, what, file, line);
    if (emu_exchange_completed_here()) {
        T sum = values[0];
        for (int i = 1; i < (int)emu_lane_count(); ++i)
            sum = fold(sum, values[i]);
        values[result] = sum;
    }
    return values[result];
}

template <class T, class F> T reduce_quad(T value, F fold, const __constant char *what, EMU_SITE) {
    T *quad = exchange(value, what, file, line) + (lane() & ~3);
    return fold(fold(quad[0], quad[1]), fold(quad[2], quad[3]));
}

template <class T> T prefix_sum(T value, bool inclusive, const __constant char *what, EMU_SITE) {
    T *values = exchange(value, what, file, line);
    T sum = (T)0;
    for (int i = 0; i < lane() + (inclusive ? 1 : 0); ++i)
        sum = sum + values[i];
    return sum;
}
} // namespace emu

namespace metal {
#define EMU_SHUFFLE(name, source)                                \
    template <class T> T name(T value, ushort n, EMU_SITE) {     \
        const int lane = emu::lane();                            \
        return emu::from_lane(value, source, #name, file, line); \
    }
EMU_SHUFFLE(simd_shuffle, n)
EMU_SHUFFLE(simd_broadcast, n)
EMU_SHUFFLE(simd_shuffle_xor, lane ^ n)
EMU_SHUFFLE(simd_shuffle_up, lane - n)
EMU_SHUFFLE(simd_shuffle_down, lane + n)
EMU_SHUFFLE(simd_shuffle_rotate_up, (lane - n) & 31)
EMU_SHUFFLE(simd_shuffle_rotate_down, (lane + n) & 31)
EMU_SHUFFLE(quad_shuffle, (lane & ~3) + n)
EMU_SHUFFLE(quad_broadcast, (lane & ~3) + n)
EMU_SHUFFLE(quad_shuffle_xor, lane ^ n)
#undef EMU_SHUFFLE

#define EMU_REDUCTION(name, expression)                                                                      \
    template <class T> T simd_##name(T value, EMU_SITE) {                                                    \
        return emu::reduce(value, [](T x, T y) -> T { return expression; }, "simd_" #name, file, line);      \
    }                                                                                                        \
    template <class T> T quad_##name(T value, EMU_SITE) {                                                    \
        return emu::reduce_quad(value, [](T x, T y) -> T { return expression; }, "quad_" #name, file, line); \
    }
EMU_REDUCTION(sum, x + y)
EMU_REDUCTION(product, x *y)
EMU_REDUCTION(min, min(x, y))
EMU_REDUCTION(max, max(x, y))
EMU_REDUCTION(and, x &y)
EMU_REDUCTION(or, x | y)
EMU_REDUCTION(xor, x ^ y)
#undef EMU_REDUCTION

template <class T> T simd_broadcast_first(T value, EMU_SITE) {
    return emu::from_lane(value, 0, "simd_broadcast_first", file, line);
}
template <class T> T simd_prefix_inclusive_sum(T value, EMU_SITE) {
    return emu::prefix_sum(value, true, "simd_prefix_inclusive_sum", file, line);
}
template <class T> T simd_prefix_exclusive_sum(T value, EMU_SITE) {
    return emu::prefix_sum(value, false, "simd_prefix_exclusive_sum", file, line);
}
inline bool simd_all(bool value, EMU_SITE) {
    return emu::reduce((int)value, [](int x, int y) { return x & y; }, "simd_all", file, line);
}
inline bool simd_any(bool value, EMU_SITE) {
    return emu::reduce((int)value, [](int x, int y) { return x | y; }, "simd_any", file, line);
}
inline bool simd_is_first() { return emu::lane() == 0; }
} // namespace metal
