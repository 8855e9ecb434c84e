/* The forward pass in integers on AVX-512 with its products of bytes (VNNI). */
#if defined(__x86_64__)
#include "cpu/target.h"

TARGET_BEGIN("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")

#include "cpu/generic_begin.h"
#include "cpu/simd_avx512.h"

#include "cpu/int8_avx512.h"

#define KERNEL_NAME "int8_avx512vnni"
#define KERNEL mfai_cpu_int8_avx512vnni
#define ROW_TILE 12
#include "cpu/int8_instance.h"

TARGET_END
#endif
