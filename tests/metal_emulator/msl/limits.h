// metal_limits
namespace metal {
template <class T> struct numeric_limits {
    static constexpr T min() { return is_signed() ? (T)((T)1 << (8 * sizeof(T) - 1)) : (T)0; }
    static constexpr T max() { return (T)~min(); }
    static constexpr T lowest() { return min(); }

  private:
    static constexpr bool is_signed() { return (T)-1 < (T)0; }
};

#define EMU_LIMITS(T, smallest, greatest, step)                          \
    template <> struct numeric_limits<T> {                               \
        static constexpr T min() { return (T)smallest; }                 \
        static constexpr T max() { return (T)greatest; }                 \
        static constexpr T lowest() { return (T) - greatest; }           \
        static constexpr T epsilon() { return (T)step; }                 \
        static constexpr T infinity() { return (T)__builtin_inff(); }    \
        static constexpr T quiet_NaN() { return (T)__builtin_nanf(""); } \
    };
EMU_LIMITS(float, 0x1p-126f, 0x1.fffffep+127f, 0x1p-23f)
EMU_LIMITS(half, 0x1p-14f, 65504.0f, 0x1p-10f)
EMU_LIMITS(bfloat, 0x1p-126f, 0x1.fep+127f, 0x1p-7f)
#undef EMU_LIMITS
} // namespace metal
