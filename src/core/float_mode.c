#include "core/float_mode.h"

/* Writing these registers waits for what is in flight, reading them does not: written only where they differ. */

#if defined(__x86_64__)

#include <xmmintrin.h>

enum { OURS = _MM_MASK_MASK, FLAGS = _MM_EXCEPT_MASK }; /* every exception masked, all else 0 */

mfai_float_mode_t mfai_float_mode_enter(void) {
    const mfai_float_mode_t before = {.control = _mm_getcsr()};
    if ((before.control & ~(uint64_t)FLAGS) != OURS)
        _mm_setcsr(OURS);
    return before;
}

void mfai_float_mode_leave(const mfai_float_mode_t *before) {
    if (_mm_getcsr() != before->control)
        _mm_setcsr((unsigned)before->control);
}

#elif defined(__aarch64__)

mfai_float_mode_t mfai_float_mode_enter(void) {
    mfai_float_mode_t before;
    __asm__ volatile("mrs %0, fpcr\n\tmrs %1, fpsr" : "=r"(before.control), "=r"(before.flags) : : "memory");
    if (before.control != 0)
        __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)0) : "memory");
    return before;
}

void mfai_float_mode_leave(const mfai_float_mode_t *before) {
    uint64_t flags;
    __asm__ volatile("mrs %0, fpsr" : "=r"(flags) : : "memory");
    if (flags != before->flags)
        __asm__ volatile("msr fpsr, %0" : : "r"(before->flags) : "memory");
    if (before->control != 0)
        __asm__ volatile("msr fpcr, %0" : : "r"(before->control) : "memory");
}

#else

mfai_float_mode_t mfai_float_mode_enter(void) {
    mfai_float_mode_t before;
    fegetenv(&before);
    fesetenv(FE_DFL_ENV);
    return before;
}

void mfai_float_mode_leave(const mfai_float_mode_t *before) { fesetenv(before); }

#endif
