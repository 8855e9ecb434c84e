/* Which kernel, and as what: the macros it is compiled with and the values of its function constants. */
#ifndef MFA_METAL_KERNEL_H
#define MFA_METAL_KERNEL_H

#include "core/problem.h"
#include "metal/tiles.h"

enum { MFAI_METAL_SIMD_WIDTH = 32 };
enum { MFAI_METAL_MACROS = 16, MFAI_METAL_CONSTANTS = 16 };

typedef struct {
    const char *name;
    char value[16];
} mfai_metal_macro_t;

typedef struct {
    unsigned index, value;
    bool is_flag; /* bool in the kernel, else uint */
} mfai_metal_constant_t;

typedef struct {
    const char *name; /* in sources.h; its function is attention_<name> */
    int macro_count, constant_count;
    mfai_metal_macro_t macros[MFAI_METAL_MACROS];
    mfai_metal_constant_t constants[MFAI_METAL_CONSTANTS];
} mfai_metal_kernel_t;

/* Macros of a type, "half", "bfloat" or "float", and of a number. */
void mfai_metal_kernel_define_type(mfai_metal_kernel_t *kernel, const char *macro, int32_t format);
void mfai_metal_kernel_define(mfai_metal_kernel_t *kernel, const char *macro, int value);

/* The macros of a row of the tile table. */
void mfai_metal_kernel_define_tile(mfai_metal_kernel_t *kernel, const mfai_metal_tile_t *tile);

/* The function constants that follow from what the problem uses, of which the kernel knows the features in `used`. */
void mfai_metal_kernel_set_features(mfai_metal_kernel_t *kernel, const mfai_problem_t *problem, unsigned used);

void mfai_metal_kernel_set_flag(mfai_metal_kernel_t *kernel, unsigned index, bool value);

#endif
