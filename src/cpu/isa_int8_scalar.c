/* The forward pass in integers in plain C. */
#include "cpu/generic_begin.h"
#include "cpu/simd_scalar.h"

#include "cpu/int8_scalar.h"

#define KERNEL_NAME "int8_scalar"
#define KERNEL mfai_cpu_int8_scalar
#define ROW_TILE 4
#include "cpu/int8_instance.h"
