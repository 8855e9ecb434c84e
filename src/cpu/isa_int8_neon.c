/* The forward pass in integers on arm64 with its baseline vector instructions. */
#if defined(__aarch64__)
#include "cpu/generic_begin.h"
#include "cpu/simd_neon.h"

#include "cpu/int8_neon.h"

#define KERNEL_NAME "int8_neon"
#define KERNEL mfai_cpu_int8_neon
#define ROW_TILE 8
#include "cpu/int8_instance.h"
#endif
