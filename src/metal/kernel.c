#include "metal/kernel.h"

#include <math.h>
#include <stdio.h>

#include "mfa_params.h"

static const float LOG2_E = 1.4426950408889634f;

static mfai_metal_macro_t *add_macro(mfai_metal_kernel_t *kernel, const char *name) {
    mfai_metal_macro_t *macro = &kernel->macros[kernel->macro_count++];
    macro->name = name;
    return macro;
}

void mfai_metal_kernel_define_type(mfai_metal_kernel_t *kernel, const char *name, int32_t format) {
    static const char *const types[] = {
        [MFAI_FORMAT_FP16] = "half", [MFAI_FORMAT_BF16] = "bfloat", [MFAI_FORMAT_FP32] = "float"};
    mfai_metal_macro_t *macro = add_macro(kernel, name);
    snprintf(macro->value, sizeof macro->value, "%s", types[format]);
}

void mfai_metal_kernel_define(mfai_metal_kernel_t *kernel, const char *name, int value) {
    mfai_metal_macro_t *macro = add_macro(kernel, name);
    snprintf(macro->value, sizeof macro->value, "%d", value);
}

void mfai_metal_kernel_define_tile(mfai_metal_kernel_t *kernel, const mfai_metal_tile_t *tile) {
    mfai_metal_kernel_define(kernel, "MFA_D", tile->depth);
    mfai_metal_kernel_define(kernel, "MFA_BD", tile->depth_block);
    mfai_metal_kernel_define(kernel, "MFA_DV", tile->value_block);
    mfai_metal_kernel_define(kernel, "MFA_BQ", tile->rows);
    mfai_metal_kernel_define(kernel, "MFA_BK", tile->keys);
    mfai_metal_kernel_define(kernel, "MFA_SIMDGROUPS", tile->simdgroups);
    mfai_metal_kernel_define(kernel, "MFA_KEEP_QUERY", tile->keep_query);
}

void mfai_metal_kernel_set_flag(mfai_metal_kernel_t *kernel, unsigned index, bool value) {
    kernel->constants[kernel->constant_count++] = (mfai_metal_constant_t){index, value, true};
}

static unsigned mask_kind(const mfai_view_t *mask) {
    static const unsigned kinds[] = {
        [MFAI_FORMAT_FP16] = MFA_MASK_FP16, [MFAI_FORMAT_BF16] = MFA_MASK_BF16, [MFAI_FORMAT_FP32] = MFA_MASK_FP32};
    return kinds[mask->format];
}

void mfai_metal_kernel_set_features(mfai_metal_kernel_t *kernel, const mfai_problem_t *p, unsigned used) {
    const unsigned features = p->features & used;
    mfai_metal_kernel_set_flag(kernel, MFA_CONSTANT_LOGSUMEXP, features & MFAI_LOGSUMEXP);
    mfai_metal_kernel_set_flag(kernel, MFA_CONSTANT_BOOL_MASK, features & MFAI_BOOL_MASK);
    kernel->constants[kernel->constant_count++] =
        (mfai_metal_constant_t){MFA_CONSTANT_ADDITIVE_MASK,
                                features & MFAI_ADDITIVE_MASK ? mask_kind(&p->additive_mask) : MFA_MASK_NONE, false};
    mfai_metal_kernel_set_flag(kernel, MFA_CONSTANT_ALIBI, features & MFAI_ALIBI);
    mfai_metal_kernel_set_flag(kernel, MFA_CONSTANT_SINKS, features & MFAI_SINKS);
    mfai_metal_kernel_set_flag(kernel, MFA_CONSTANT_SOFTCAP, features & MFAI_SOFTCAP);
    mfai_metal_kernel_set_flag(kernel, MFA_CONSTANT_HUGE_SCALE, isinf(p->softmax_scale * LOG2_E));
    mfai_metal_kernel_set_flag(kernel, MFA_CONSTANT_DROPOUT, features & MFAI_DROPOUT);
    mfai_metal_kernel_set_flag(kernel, MFA_CONSTANT_EXACT_WEIGHTS, features & MFAI_EXACT_WEIGHTS);
}
