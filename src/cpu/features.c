#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* sched_getaffinity */
#endif
#include "cpu/features.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#if defined(__linux__)
#include <sched.h>
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

/* The builtins also ask whether the operating system saves the wide registers. */
bool mfai_cpu_has_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

bool mfai_cpu_has_avx512(void) {
    return mfai_cpu_has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

bool mfai_cpu_has_avx512bf16(void) { return mfai_cpu_has_avx512() && __builtin_cpu_supports("avx512bf16"); }

bool mfai_cpu_has_neon(void) { return false; }

bool mfai_cpu_has_neon_bf16(void) { return false; }

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

bool mfai_cpu_has_avx512bf16(void) { return false; }

bool mfai_cpu_has_neon(void) {
#if defined(__aarch64__)
    return true;
#else
    return false;
#endif
}

bool mfai_cpu_has_neon_bf16(void) {
#if defined(__aarch64__) && defined(__linux__)
    return getauxval(AT_HWCAP2) & HWCAP2_BF16;
#elif defined(__APPLE__)
    int has = 0;
    size_t size = sizeof has;
    return sysctlbyname("hw.optional.arm.FEAT_BF16", &has, &size, NULL, 0) == 0 && has;
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

#if defined(__linux__)

/* CPUs that the bandwidth quota in `path` is worth, rounded up; 0 if there is none. version 2 keeps quota and period in
   one file, version 1 in two. */
static int quota_cpus(const char *quota_path, const char *period_path) {
    long quota = -1, period = 100000;
    FILE *file = fopen(quota_path, "r");
    if (file == NULL)
        return 0;
    int fields = fscanf(file, period_path ? "%ld" : "%ld %ld", &quota, &period);
    fclose(file);
    if (fields < 1 || quota <= 0)
        return 0;
    if (period_path != NULL && (file = fopen(period_path, "r")) != NULL) {
        if (fscanf(file, "%ld", &period) != 1)
            period = 100000;
        fclose(file);
    }
    return period > 0 ? (int)((quota + period - 1) / period) : 0;
}

static int permitted_cpus(void) {
    cpu_set_t set;
    int count = 0;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        count = CPU_COUNT(&set);
    if (count < 1)
        count = (int)sysconf(_SC_NPROCESSORS_ONLN);
    int quota = quota_cpus("/sys/fs/cgroup/cpu.max", NULL);
    if (quota == 0)
        quota = quota_cpus("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us");
    return quota > 0 && quota < count ? quota : count;
}

#else

static int permitted_cpus(void) { return (int)sysconf(_SC_NPROCESSORS_ONLN); }

#endif

int mfai_cpu_count(void) {
    int count = permitted_cpus();
    return count > 0 ? count : 1;
}
