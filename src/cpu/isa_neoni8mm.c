/* The forward pass in integers on arm64 with products of unsigned and signed bytes (USDOT). */
#if defined(__aarch64__)
#include "cpu/target.h"

#if defined(__clang__)
TARGET_BEGIN("i8mm")
#else
TARGET_BEGIN("arch=armv8.2-a+i8mm")
#endif

#include "cpu/generic_begin.h"
#include "cpu/simd_neon.h"

#define INT8_USDOT
#include "cpu/int8_neon.h"

#define KERNEL_NAME "int8_neoni8mm"
#define KERNEL mfai_cpu_int8_neoni8mm
#define ROW_TILE 8
#include "cpu/int8_instance.h"

TARGET_END
#endif
