/* The forward pass in integers on AVX2. */
#if defined(__x86_64__)
#include "cpu/target.h"

TARGET_BEGIN("avx2,fma,f16c")

#include "cpu/generic_begin.h"
#include "cpu/simd_avx2.h"

#include "cpu/int8_avx2.h"

#define KERNEL_NAME "int8_avx2"
#define KERNEL mfai_cpu_int8_avx2
#define ROW_TILE 4
#include "cpu/int8_instance.h"

TARGET_END
#endif
