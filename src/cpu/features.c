#include "cpu/features.h"

#include <stdio.h>
#include <string.h>

#if defined(__linux__)
#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

bool mfai_cpu_has_baseline(void) { return true; }

#if defined(__x86_64__)
#include <cpuid.h>

/* clang knows the builtin's "f16c" since 18. */
static bool has_f16c(void) {
    unsigned a, b, c = 0, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C) != 0;
}

/* The builtins also ask whether the operating system saves the wide registers. */
bool mfai_cpu_has_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c(); }

bool mfai_cpu_has_avx512(void) {
    return mfai_cpu_has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

bool mfai_cpu_has_avx512vnni(void) { return mfai_cpu_has_avx512() && __builtin_cpu_supports("avx512vnni"); }

bool mfai_cpu_has_avx512bf16(void) { return mfai_cpu_has_avx512vnni() && __builtin_cpu_supports("avx512bf16"); }

bool mfai_cpu_has_neon(void) { return false; }

bool mfai_cpu_has_neon_bf16(void) { return false; }

bool mfai_cpu_has_neon_i8mm(void) { return false; }

void mfai_cpu_name(char *name, int size) {
    unsigned brand[13] = {0};
    for (unsigned leaf = 0; leaf < 3; ++leaf) {
        unsigned *part = brand + 4 * leaf;
        if (!__get_cpuid(0x80000002u + leaf, part, part + 1, part + 2, part + 3))
            strcpy((char *)brand, "x86-64");
    }
    snprintf(name, (size_t)size, "%s", (const char *)brand);
}

#else

bool mfai_cpu_has_avx2(void) { return false; }

bool mfai_cpu_has_avx512(void) { return false; }

bool mfai_cpu_has_avx512vnni(void) { return false; }

bool mfai_cpu_has_avx512bf16(void) { return false; }

bool mfai_cpu_has_neon(void) {
#if defined(__aarch64__)
    return true;
#else
    return false;
#endif
}

#if defined(__APPLE__)
static bool has_option(const char *name) {
    int has = 0;
    size_t size = sizeof has;
    return sysctlbyname(name, &has, &size, NULL, 0) == 0 && has;
}
#endif

bool mfai_cpu_has_neon_bf16(void) {
#if defined(__aarch64__) && defined(__linux__)
    return getauxval(AT_HWCAP2) & HWCAP2_BF16;
#elif defined(__APPLE__)
    return has_option("hw.optional.arm.FEAT_BF16");
#else
    return false;
#endif
}

bool mfai_cpu_has_neon_i8mm(void) {
#if defined(__aarch64__) && defined(__linux__)
    return mfai_cpu_has_neon_bf16() && getauxval(AT_HWCAP2) & HWCAP2_I8MM;
#elif defined(__APPLE__)
    return mfai_cpu_has_neon_bf16() && has_option("hw.optional.arm.FEAT_I8MM");
#else
    return false;
#endif
}

void mfai_cpu_name(char *name, int size) {
#if defined(__APPLE__)
    size_t length = (size_t)size;
    if (sysctlbyname("machdep.cpu.brand_string", name, &length, NULL, 0) == 0)
        return;
#endif
    snprintf(name, (size_t)size, "%s", mfai_cpu_has_neon() ? "arm64" : "cpu");
}

#endif
