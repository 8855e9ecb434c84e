// What kernels call by name: msl/runtime.h declares the same for them.
#ifndef METAL_EMULATOR_KERNEL_CALLS_H
#define METAL_EMULATOR_KERNEL_CALLS_H

#include "kernel_interface.h"

#include <stdbool.h>

typedef float emui_float2 __attribute__((vector_size(8)));

#pragma GCC visibility push(default)

uint64_t emu_threadgroup_address(const struct emu_variable *which);
uint32_t emu_position(int attribute, int axis);
void emu_threadgroup_barrier(uint32_t memory, const char *file, int line);
void emu_simdgroup_barrier(uint32_t memory, const char *file, int line);
uint64_t emu_exchange(const void *value, uint32_t size, const char *what, const char *file, int line);
bool emu_exchange_completed_here(void);
uint32_t emu_lane_count(void);
emui_float2 emu_matrix_multiply(emui_float2 a, emui_float2 b, emui_float2 c, const char *file, int line);
void emu_matrix_access(const char *what, const char *file, int line);
float emu_exp(float x);
float emu_exp2(float x);
float emu_exp10(float x);
float emu_promised_finite(float x);
float emu_perturb(float result);
float __truncsfbf2(float x); // the compiler's own helper: float to bfloat, in the low half of a register

#pragma GCC visibility pop

#endif
