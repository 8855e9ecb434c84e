/* The list of kernel instances and the choice among them. */
#include <stdlib.h>
#include <string.h>

#include "cpu/device.h"
#include "cpu/features.h"

extern const mfai_cpu_kernels_t mfai_cpu_f32_scalar, mfai_cpu_f32_avx2, mfai_cpu_f32_avx512, mfai_cpu_bf16_avx512,
    mfai_cpu_f32_neon, mfai_cpu_bf16_neon, mfai_cpu_int8_scalar, mfai_cpu_int8_avx2, mfai_cpu_int8_avx512vnni,
    mfai_cpu_int8_neon, mfai_cpu_int8_neoni8mm;

/* Best first. */
static const mfai_cpu_isa_t instances[] = {
#if defined(__x86_64__)
    {MFA_CPU_ISA_AVX512, "avx512bf16", mfai_cpu_has_avx512bf16, &mfai_cpu_f32_avx512, &mfai_cpu_bf16_avx512,
     &mfai_cpu_int8_avx512vnni},
    {MFA_CPU_ISA_AVX512, "avx512vnni", mfai_cpu_has_avx512vnni, &mfai_cpu_f32_avx512, NULL, &mfai_cpu_int8_avx512vnni},
    {MFA_CPU_ISA_AVX512, "avx512", mfai_cpu_has_avx512, &mfai_cpu_f32_avx512, NULL, &mfai_cpu_int8_avx2},
    {MFA_CPU_ISA_AVX2, "avx2", mfai_cpu_has_avx2, &mfai_cpu_f32_avx2, NULL, &mfai_cpu_int8_avx2},
#elif defined(__aarch64__)
    {MFA_CPU_ISA_NEON, "neoni8mm", mfai_cpu_has_neon_i8mm, &mfai_cpu_f32_neon, &mfai_cpu_bf16_neon,
     &mfai_cpu_int8_neoni8mm},
    {MFA_CPU_ISA_NEON, "neonbf16", mfai_cpu_has_neon_bf16, &mfai_cpu_f32_neon, &mfai_cpu_bf16_neon,
     &mfai_cpu_int8_neon},
    {MFA_CPU_ISA_NEON, "neon", mfai_cpu_has_neon, &mfai_cpu_f32_neon, NULL, &mfai_cpu_int8_neon},
#endif
    {MFA_CPU_ISA_SCALAR, "scalar", mfai_cpu_has_baseline, &mfai_cpu_f32_scalar, NULL, &mfai_cpu_int8_scalar},
};
enum { INSTANCE_COUNT = sizeof instances / sizeof *instances };

static const char *const names[] = {"auto", "scalar", "avx2", "avx512", "neon"};
enum { NAME_COUNT = sizeof names / sizeof *names };

static mfa_status_t from_environment(int32_t *id) {
    const char *wanted = getenv("MFA_CPU_ISA");
    *id = MFA_CPU_ISA_AUTO;
    if (wanted == NULL || *wanted == '\0')
        return MFA_SUCCESS;
    for (int32_t i = 0; i < NAME_COUNT; ++i)
        if (strcmp(wanted, names[i]) == 0) {
            *id = i;
            return MFA_SUCCESS;
        }
    return mfai_fail(MFA_ERROR_INVALID_ARGS,
                     "environment variable MFA_CPU_ISA is \"%s\", expected auto, scalar, avx2, avx512 or neon", wanted);
}

mfa_status_t mfai_cpu_isa_choose(int32_t id, const mfai_cpu_isa_t **isa) {
    if (id == MFA_CPU_ISA_AUTO)
        MFAI_TRY(from_environment(&id));
    for (int i = 0; i < INSTANCE_COUNT; ++i)
        if ((id == MFA_CPU_ISA_AUTO || instances[i].id == id) && instances[i].is_available()) {
            *isa = &instances[i];
            return MFA_SUCCESS;
        }
    return mfai_fail(MFA_ERROR_DEVICE_NOT_SUPPORTED, "cpu_isa %s is not available on this processor or in this build",
                     names[id]);
}
