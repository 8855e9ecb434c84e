#import "metal/operands.h"

#include <stddef.h>

typedef struct {
    size_t view, strides; /* offsets in problem and params */
    unsigned index;
    bool has_rows, lists_blocks;
} binding_t;

#define BINDING(member, index, has_rows) \
    {offsetof(mfai_problem_t, member), offsetof(mfa_metal_params, member), index, has_rows, false}
#define LIST(member, index) {offsetof(mfai_problem_t, member), offsetof(mfa_metal_params, member), index, false, true}

static const binding_t bindings[] = {
    BINDING(query, MFA_BUFFER_QUERY, true),
    BINDING(key, MFA_BUFFER_KEY, true),
    BINDING(value, MFA_BUFFER_VALUE, true),
    BINDING(out, MFA_BUFFER_OUT, true),
    BINDING(logsumexp, MFA_BUFFER_LOGSUMEXP, false),
    BINDING(bool_mask, MFA_BUFFER_BOOL_MASK, false),
    BINDING(additive_mask, MFA_BUFFER_ADDITIVE_MASK, false),
    BINDING(alibi_slopes, MFA_BUFFER_ALIBI_SLOPES, false),
    BINDING(sinks, MFA_BUFFER_SINKS, false),
    BINDING(dout, MFA_BUFFER_DOUT, true),
    BINDING(dquery, MFA_BUFFER_DQUERY, true),
    BINDING(dkey, MFA_BUFFER_DKEY, true),
    BINDING(dvalue, MFA_BUFFER_DVALUE, true),
    BINDING(dbias, MFA_BUFFER_DBIAS, false),
    BINDING(dsinks, MFA_BUFFER_DSINKS, false),
    LIST(kv_num_blocks, MFA_BUFFER_KV_NUM_BLOCKS),
    LIST(kv_indices, MFA_BUFFER_KV_INDICES),
    LIST(full_kv_num_blocks, MFA_BUFFER_FULL_KV_NUM_BLOCKS),
    LIST(full_kv_indices, MFA_BUFFER_FULL_KV_INDICES),
    LIST(block_mask, MFA_BUFFER_BLOCK_MASK),
    LIST(mask_indices, MFA_BUFFER_MASK_INDICES),
    BINDING(masks, MFA_BUFFER_MASKS, false),
    BINDING(query_starts, MFA_BUFFER_QUERY_STARTS, false),
    BINDING(key_starts, MFA_BUFFER_KEY_STARTS, false),
    BINDING(query_lengths, MFA_BUFFER_QUERY_LENGTHS, false),
    BINDING(key_lengths, MFA_BUFFER_KEY_LENGTHS, false),
    BINDING(left_padding, MFA_BUFFER_LEFT_PADDING, false),
    BINDING(key_batches, MFA_BUFFER_KEY_BATCHES, false),
    BINDING(page_table, MFA_BUFFER_PAGE_TABLE, false),
    BINDING(query_value, MFA_BUFFER_QUERY_VALUE, true),
    BINDING(query_scale, MFA_BUFFER_QUERY_SCALE, false),
    BINDING(key_scale, MFA_BUFFER_KEY_SCALE, false),
    BINDING(value_scale, MFA_BUFFER_VALUE_SCALE, false),
    BINDING(delta, MFA_BUFFER_OWN_DELTA, false),
    {offsetof(mfai_problem_t, key_quantization.scales), offsetof(mfa_metal_params, key_scales), MFA_BUFFER_KEY_SCALES,
     false, false},
    {offsetof(mfai_problem_t, key_quantization.zero_points), offsetof(mfa_metal_params, key_zero_points),
     MFA_BUFFER_KEY_ZERO_POINTS, false, false},
    {offsetof(mfai_problem_t, key_quantization.mean), offsetof(mfa_metal_params, key_mean), MFA_BUFFER_KEY_MEAN, false,
     false},
    {offsetof(mfai_problem_t, value_quantization.scales), offsetof(mfa_metal_params, value_scales),
     MFA_BUFFER_VALUE_SCALES, false, false},
    {offsetof(mfai_problem_t, value_quantization.zero_points), offsetof(mfa_metal_params, value_zero_points),
     MFA_BUFFER_VALUE_ZERO_POINTS, false, false},
    BINDING(new_key, MFA_BUFFER_NEW_KEY, false),
    BINDING(new_value, MFA_BUFFER_NEW_VALUE, false),
    BINDING(new_starts, MFA_BUFFER_NEW_STARTS, false),
    BINDING(rotary_cos, MFA_BUFFER_ROTARY_COS, false),
    BINDING(rotary_sin, MFA_BUFFER_ROTARY_SIN, false),
    BINDING(rotary_positions, MFA_BUFFER_ROTARY_POSITIONS, false),
};
_Static_assert(sizeof bindings / sizeof *bindings == MFAI_OPERANDS, "a row for each operand");

static const binding_t *find(size_t view) {
    const binding_t *binding = bindings;
    while (binding->view != view)
        ++binding;
    return binding;
}

static void add(mfai_metal_call_t *call, const mfai_problem_t *problem, const mfai_operand_t *operand, int use) {
    const mfai_view_t *view = mfai_operand_view(operand, problem);
    if (use == MFAI_UNUSED || !view->present)
        return;
    const binding_t *binding = find(operand->view);
    call->operands[call->operand_count++] = (mfai_metal_operand_use_t){
        .index = binding->index,
        .name = operand->name,
        .view = view,
        .access = use == MFAI_UPDATE     ? MFAI_METAL_UPDATE
                  : mfai_is_written(use) ? MFAI_METAL_WRITE
                                         : MFAI_METAL_READ,
        .strides = (mfa_metal_strides *)((char *)&call->params + binding->strides),
        .has_rows = binding->has_rows,
        .lists_blocks = binding->lists_blocks,
    };
}

void mfai_metal_add_operands(mfai_metal_call_t *call, const mfai_problem_t *problem) {
    for (int i = 0; i < MFAI_OPERANDS; ++i)
        add(call, problem, &mfai_operands[i], mfai_operand_use(&mfai_operands[i], problem));
}
