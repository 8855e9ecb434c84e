/* Which kernel, and as what: the macros it is compiled with and the values of its function constants. */
#ifndef MFA_METAL_KERNEL_H
#define MFA_METAL_KERNEL_H

#include "core/problem.h"
#include "metal/tiles.h"
#include "mfa_params.h"

enum { MFAI_METAL_SIMD_WIDTH = 32 };

/* The macros of mfa_params.h: those that are types, which begin at 0, and those that are numbers. */
typedef enum {
    MFAI_METAL_T,
    MFAI_METAL_K,
    MFAI_METAL_V,
    MFAI_METAL_O,
    MFAI_METAL_DO,
    MFAI_METAL_G,
    MFAI_METAL_GV,
    MFAI_METAL_TYPES,
    MFAI_METAL_D = MFAI_METAL_TYPES,
    MFAI_METAL_BD,
    MFAI_METAL_DV,
    MFAI_METAL_BQ,
    MFAI_METAL_BK,
    MFAI_METAL_SIMDGROUPS,
    MFAI_METAL_RESIDENT,
    MFAI_METAL_MACROS
} mfai_metal_macro_t;

/* Its bytes, of which none is padding before the last member's end, are the kernel's key in mfai_metal_pipelines_t. */
typedef struct {
    const char *name;                  /* in sources.h; its function is attention_<name> */
    int32_t macros[MFAI_METAL_MACROS]; /* 1 + a format or a number; 0: not defined */
    uint32_t constants[MFA_CONSTANTS]; /* by MFA_CONSTANT_... */
} mfai_metal_kernel_t;

/* Defines a macro of a type, as which an element of the format is computed with, or of a number. */
void mfai_metal_kernel_define_type(mfai_metal_kernel_t *kernel, mfai_metal_macro_t macro, int32_t format);
void mfai_metal_kernel_define(mfai_metal_kernel_t *kernel, mfai_metal_macro_t macro, int value);

/* The macros of a row of the tile table. */
void mfai_metal_kernel_define_tile(mfai_metal_kernel_t *kernel, const mfai_metal_tile_t *tile);

/* The types of queries, keys and values. */
void mfai_metal_kernel_define_operands(mfai_metal_kernel_t *kernel, const mfai_problem_t *problem);

/* The name of a macro and, if the kernel has it, its value: a type's name or a number. */
const char *mfai_metal_macro_name(mfai_metal_macro_t macro);
bool mfai_metal_kernel_macro(const mfai_metal_kernel_t *kernel, mfai_metal_macro_t macro, char value[16]);

/* Whether products of queries and keys are those of integers: MFA_COMPUTE_INT8, and scales that leave the products, as
   those of rows do, and those of columns that all rows of a sequence share. Other keys and values are computed with as
   what they stand for. */
bool mfai_metal_keys_are_integers(const mfai_problem_t *problem);

/* The function constants that follow from what the problem uses, of which the kernel knows the features in `used`. */
void mfai_metal_kernel_set_features(mfai_metal_kernel_t *kernel, const mfai_problem_t *problem, unsigned used);

#endif
