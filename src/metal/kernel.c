#include "metal/kernel.h"

#include <math.h>
#include <stdio.h>

static const char *const names[] = {
    [MFAI_METAL_T] = "MFA_T",
    [MFAI_METAL_K] = "MFA_K",
    [MFAI_METAL_V] = "MFA_V",
    [MFAI_METAL_O] = "MFA_O",
    [MFAI_METAL_DO] = "MFA_DO",
    [MFAI_METAL_G] = "MFA_G",
    [MFAI_METAL_GV] = "MFA_GV",
    [MFAI_METAL_D] = "MFA_D",
    [MFAI_METAL_BD] = "MFA_BD",
    [MFAI_METAL_DV] = "MFA_DV",
    [MFAI_METAL_BQ] = "MFA_BQ",
    [MFAI_METAL_BK] = "MFA_BK",
    [MFAI_METAL_SIMDGROUPS] = "MFA_SIMDGROUPS",
    [MFAI_METAL_RESIDENT] = "MFA_RESIDENT",
};
_Static_assert(sizeof names / sizeof *names == MFAI_METAL_MACROS, "a name for each macro");

static const char *const types[] = {
    [MFAI_FORMAT_FP16] = "half",      [MFAI_FORMAT_BF16] = "bfloat", [MFAI_FORMAT_FP32] = "float",
    [MFAI_FORMAT_INT8] = "char",      [MFAI_FORMAT_UINT8] = "uchar", [MFAI_FORMAT_INT4] = "mfa_int4",
    [MFAI_FORMAT_UINT4] = "mfa_uint4"};

void mfai_metal_kernel_define_type(mfai_metal_kernel_t *kernel, mfai_metal_macro_t macro, int32_t format) {
    kernel->macros[macro] = 1 + format;
}

void mfai_metal_kernel_define(mfai_metal_kernel_t *kernel, mfai_metal_macro_t macro, int value) {
    kernel->macros[macro] = 1 + value;
}

void mfai_metal_kernel_define_tile(mfai_metal_kernel_t *kernel, const mfai_metal_tile_t *tile) {
    mfai_metal_kernel_define(kernel, MFAI_METAL_D, tile->depth);
    mfai_metal_kernel_define(kernel, MFAI_METAL_BD, tile->depth_block);
    mfai_metal_kernel_define(kernel, MFAI_METAL_DV, tile->value_block);
    mfai_metal_kernel_define(kernel, MFAI_METAL_BQ, tile->rows);
    mfai_metal_kernel_define(kernel, MFAI_METAL_BK, tile->keys);
    mfai_metal_kernel_define(kernel, MFAI_METAL_SIMDGROUPS, tile->simdgroups);
    mfai_metal_kernel_define(kernel, MFAI_METAL_RESIDENT, tile->resident);
}

void mfai_metal_kernel_define_operands(mfai_metal_kernel_t *kernel, const mfai_problem_t *p) {
    mfai_metal_kernel_define_type(kernel, MFAI_METAL_T, p->query.format);
    mfai_metal_kernel_define_type(kernel, MFAI_METAL_K, p->key.format);
    mfai_metal_kernel_define_type(kernel, MFAI_METAL_V, p->value.format);
}

const char *mfai_metal_macro_name(mfai_metal_macro_t macro) { return names[macro]; }

bool mfai_metal_kernel_macro(const mfai_metal_kernel_t *kernel, mfai_metal_macro_t macro, char value[16]) {
    const int number = kernel->macros[macro] - 1;
    if (number < 0)
        return false;
    if (macro < MFAI_METAL_TYPES)
        snprintf(value, 16, "%s", types[number]);
    else
        snprintf(value, 16, "%d", number);
    return true;
}

static unsigned mask_kind(const mfai_view_t *mask) {
    static const unsigned kinds[] = {
        [MFAI_FORMAT_FP16] = MFA_MASK_FP16, [MFAI_FORMAT_BF16] = MFA_MASK_BF16, [MFAI_FORMAT_FP32] = MFA_MASK_FP32};
    return kinds[mask->format];
}

static unsigned lists_of(const mfai_problem_t *p) {
    return MFA_LIST_SEQUENCES | (p->query_starts.present ? MFA_LIST_QUERY_STARTS : 0) |
           (p->key_starts.present ? MFA_LIST_KEY_STARTS : 0) | (p->query_lengths.present ? MFA_LIST_QUERY_LENGTHS : 0) |
           (p->key_lengths.present ? MFA_LIST_KEY_LENGTHS : 0) | (p->left_padding.present ? MFA_LIST_LEFT_PADDING : 0) |
           (p->key_batches.present ? MFA_LIST_KEY_BATCHES : 0) | (p->page_table.present ? MFA_LIST_PAGE_TABLE : 0) |
           (p->new_key.present ? MFA_LIST_APPEND : 0) | (p->new_starts.present ? MFA_LIST_NEW_STARTS : 0) |
           (p->rotary_positions.present ? MFA_LIST_ROTARY_POSITIONS : 0);
}

static unsigned scales_of(const mfai_problem_t *p) {
    return (p->query_scale.present ? MFA_SCALE_QUERY : 0) | (p->key_scale.present ? MFA_SCALE_KEY : 0) |
           (p->value_scale.present ? MFA_SCALE_VALUE : 0);
}

/* Whether scales can come in outside of products, as those of rows do, and those of columns that a sequence's rows
   share. */
static bool leave_products(const mfai_problem_t *p, const mfai_quantization_t *quantization) {
    const int64_t *shape = quantization->scales.shape;
    return shape[3] == 1 || (shape[2] == 1 && (shape[0] == 1 || !p->page_table.present));
}

bool mfai_metal_keys_are_integers(const mfai_problem_t *p) {
    return p->pass == MFAI_FORWARD && p->features & MFAI_INT8 && leave_products(p, &p->key_quantization);
}

static bool values_are_integers(const mfai_problem_t *p) {
    return p->pass == MFAI_FORWARD && p->features & MFAI_INT8 && leave_products(p, &p->value_quantization);
}

static unsigned codes_of(const mfai_quantization_t *quantization, int64_t columns) {
    const bool zero_points = quantization->zero_points.present;
    const int32_t zero_point = quantization->zero_points.format;
    return MFA_CODES_SCALES | (quantization->scales.format == MFAI_FORMAT_FP16 ? MFA_CODES_HALF_SCALES : 0) |
           (quantization->columns == 1 && columns > 1 ? MFA_CODES_COLUMNS : 0) |
           (quantization->columns > 1 && quantization->columns < columns ? MFA_CODES_GROUPS : 0) |
           (zero_points ? MFA_CODES_ZERO_POINTS : 0) |
           (zero_points && zero_point == MFAI_FORMAT_INT8 ? MFA_CODES_SIGNED_BYTES : 0) |
           (zero_points && zero_point == MFAI_FORMAT_UINT8 ? MFA_CODES_UNSIGNED_BYTES : 0) |
           (quantization->mean.present ? MFA_CODES_MEAN : 0);
}

void mfai_metal_kernel_set_features(mfai_metal_kernel_t *kernel, const mfai_problem_t *p, unsigned used) {
    static const struct {
        unsigned feature, constant;
    } flags[] = {{MFAI_LOGSUMEXP, MFA_CONSTANT_LOGSUMEXP}, {MFAI_BOOL_MASK, MFA_CONSTANT_BOOL_MASK},
                 {MFAI_ALIBI, MFA_CONSTANT_ALIBI},         {MFAI_SINKS, MFA_CONSTANT_SINKS},
                 {MFAI_SOFTCAP, MFA_CONSTANT_SOFTCAP},     {MFAI_DROPOUT, MFA_CONSTANT_DROPOUT},
                 {MFAI_BLOCKS, MFA_CONSTANT_BLOCKS},       {MFAI_EXACT_WEIGHTS, MFA_CONSTANT_EXACT_WEIGHTS},
                 {MFAI_CHUNK, MFA_CONSTANT_CHUNK},         {MFAI_QUERY_VALUE, MFA_CONSTANT_QUERY_VALUE},
                 {MFAI_ROTARY, MFA_CONSTANT_ROTARY},       {MFAI_ZERO_CLIPPED, MFA_CONSTANT_ZERO_CLIPPED}};
    const unsigned features = p->features & used;
    for (size_t i = 0; i < sizeof flags / sizeof *flags; ++i)
        kernel->constants[flags[i].constant] = (features & flags[i].feature) != 0;
    kernel->constants[MFA_CONSTANT_BLOCK_MASKS] =
        features & MFAI_BLOCKS && p->kv_indices.present && p->mask_indices.present && p->masks.present;
    kernel->constants[MFA_CONSTANT_ADDITIVE_MASK] =
        features & MFAI_ADDITIVE_MASK ? mask_kind(&p->additive_mask) : MFA_MASK_NONE;
    kernel->constants[MFA_CONSTANT_LISTS] = features & MFAI_SEQUENCES ? lists_of(p) : 0;
    kernel->constants[MFA_CONSTANT_SCALES] = features & MFAI_SCALES ? scales_of(p) : 0;
    kernel->constants[MFA_CONSTANT_KEY_CODES] =
        features & MFAI_KEY_CODES ? codes_of(&p->key_quantization, p->head_dim) : 0;
    kernel->constants[MFA_CONSTANT_VALUE_CODES] =
        features & MFAI_VALUE_CODES ? codes_of(&p->value_quantization, p->value_dim) : 0;
    if (features & MFAI_INT8) {
        kernel->constants[MFA_CONSTANT_KEY_CODES] |= mfai_metal_keys_are_integers(p) ? MFA_CODES_INTEGERS : 0;
        kernel->constants[MFA_CONSTANT_VALUE_CODES] |= values_are_integers(p) ? MFA_CODES_INTEGERS : 0;
    }
    const bool turns = features & MFAI_ROTARY;
    kernel->constants[MFA_CONSTANT_INTERLEAVED] = turns && p->is_interleaved;
    kernel->constants[MFA_CONSTANT_FLOAT_COSINES] = turns && p->rotary_cos.format == MFAI_FORMAT_FP32;
    kernel->constants[MFA_CONSTANT_FLOAT_SINES] = turns && p->rotary_sin.format == MFAI_FORMAT_FP32;
    /* Of kernels that score, which know a softcap. */
    kernel->constants[MFA_CONSTANT_HUGE_SCALE] = used & MFAI_SOFTCAP && isinf(p->softmax_scale * MFA_LOG2_E);
}
