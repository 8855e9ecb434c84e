// Atomics on device and threadgroup memory. Order is relaxed, the only one that Metal has.
namespace metal {
enum memory_order { memory_order_relaxed = __ATOMIC_RELAXED };

template <class T> struct atomic {
    T value;
};
// OpenCL has types of these names.
#define atomic_int atomic_int_in_metal
#define atomic_uint atomic_uint_in_metal
#define atomic_float atomic_float_in_metal
typedef atomic<int> atomic_int;
typedef atomic<uint> atomic_uint;
typedef atomic<float> atomic_float;
} // namespace metal

namespace emu {
// Whatever the processor has no instruction for.
template <class T, class P, class F> T atomic_update(P *word, F change) {
    uint old = __atomic_load_n(word, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(word, &old, __builtin_bit_cast(uint, (T)change(__builtin_bit_cast(T, old))),
                                        true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return __builtin_bit_cast(T, old);
}
} // namespace emu

namespace metal {
#define EMU_ATOMIC_UPDATE(space, name, expression)                                                                   \
    template <class T> T atomic_##name##_explicit(volatile space atomic<T> *object, T operand, memory_order) {       \
        return emu::atomic_update<T>((space uint *)(ulong) & object->value, [=](T old) { return (T)(expression); }); \
    }
#define EMU_ATOMICS(space)                                                                                            \
    template <class T> T atomic_load_explicit(const volatile space atomic<T> *object, memory_order) {                 \
        return __builtin_bit_cast(T, __atomic_load_n((space uint *)(ulong) & object->value, __ATOMIC_RELAXED));       \
    }                                                                                                                 \
    template <class T> void atomic_store_explicit(volatile space atomic<T> *object, T value, memory_order) {          \
        __atomic_store_n((space uint *)(ulong) & object->value, __builtin_bit_cast(uint, value), __ATOMIC_RELAXED);   \
    }                                                                                                                 \
    template <class T>                                                                                                \
    bool atomic_compare_exchange_weak_explicit(volatile space atomic<T> *object, __private T *expected, T value,      \
                                               memory_order, memory_order) {                                          \
        uint old = __builtin_bit_cast(uint, *expected);                                                               \
        const bool same =                                                                                             \
            __atomic_compare_exchange_n((space uint *)(ulong) & object->value, &old, __builtin_bit_cast(uint, value), \
                                        true, __ATOMIC_RELAXED, __ATOMIC_RELAXED);                                    \
        *expected = __builtin_bit_cast(T, old);                                                                       \
        return same;                                                                                                  \
    }                                                                                                                 \
    EMU_ATOMIC_UPDATE(space, exchange, operand)                                                                       \
    EMU_ATOMIC_UPDATE(space, fetch_add, old + operand)                                                                \
    EMU_ATOMIC_UPDATE(space, fetch_sub, old - operand)                                                                \
    EMU_ATOMIC_UPDATE(space, fetch_min, min(old, operand))                                                            \
    EMU_ATOMIC_UPDATE(space, fetch_max, max(old, operand))                                                            \
    EMU_ATOMIC_UPDATE(space, fetch_and, old &operand)                                                                 \
    EMU_ATOMIC_UPDATE(space, fetch_or, old | operand)                                                                 \
    EMU_ATOMIC_UPDATE(space, fetch_xor, old ^ operand)
EMU_ATOMICS(__global)
EMU_ATOMICS(__local)
#undef EMU_ATOMICS
#undef EMU_ATOMIC_UPDATE
} // namespace metal
