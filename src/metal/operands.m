#if defined(__APPLE__) || !defined(SWIFT_PACKAGE) /* a Swift package compiles every source everywhere */
#import "metal/operands.h"

#include <stddef.h>

typedef struct {
    size_t view, strides; /* offsets in problem and params */
    unsigned index, kinds;
    bool has_rows;
} binding_t;

enum {
    ATTENDS = MFAI_METAL_ATTENDS,
    APPENDS = MFAI_METAL_APPENDS,
    PREPARES = MFAI_METAL_PREPARES,
    LISTS_BLOCKS = MFAI_METAL_LISTS_BLOCKS,
    ADDS_SINKS = MFAI_METAL_ADDS_SINKS,
    KNOWS_SEQUENCES = ATTENDS | APPENDS | PREPARES | ADDS_SINKS
};

#define BINDING(member, index, kinds, has_rows) \
    {offsetof(mfai_problem_t, member), offsetof(mfa_metal_params, member), index, kinds, has_rows}
#define CODES(operand, member, index)                                                                              \
    {offsetof(mfai_problem_t, operand##_quantization.member), offsetof(mfa_metal_params, operand##_coding.member), \
     index, ATTENDS | APPENDS, false}

static const binding_t bindings[] = {
    BINDING(query, MFA_BUFFER_QUERY, ATTENDS | APPENDS, true),
    BINDING(key, MFA_BUFFER_KEY, ATTENDS | APPENDS, true),
    BINDING(value, MFA_BUFFER_VALUE, ATTENDS | APPENDS, true),
    BINDING(out, MFA_BUFFER_OUT, ATTENDS | PREPARES, true),
    BINDING(logsumexp, MFA_BUFFER_LOGSUMEXP, ATTENDS | ADDS_SINKS, false),
    BINDING(bool_mask, MFA_BUFFER_BOOL_MASK, ATTENDS, false),
    BINDING(additive_mask, MFA_BUFFER_ADDITIVE_MASK, ATTENDS, false),
    BINDING(alibi_slopes, MFA_BUFFER_ALIBI_SLOPES, ATTENDS, false),
    BINDING(sinks, MFA_BUFFER_SINKS, ATTENDS | ADDS_SINKS, false),
    BINDING(dout, MFA_BUFFER_DOUT, ATTENDS | PREPARES, true),
    BINDING(dquery, MFA_BUFFER_DQUERY, ATTENDS, true),
    BINDING(dkey, MFA_BUFFER_DKEY, ATTENDS, true),
    BINDING(dvalue, MFA_BUFFER_DVALUE, ATTENDS, true),
    BINDING(dbias, MFA_BUFFER_DBIAS, ATTENDS, false),
    BINDING(dsinks, MFA_BUFFER_DSINKS, ADDS_SINKS, false),
    BINDING(delta, MFA_BUFFER_OWN_DELTA, PREPARES, false),
    BINDING(dlogsumexp, MFA_BUFFER_DLOGSUMEXP, PREPARES, false),
    BINDING(kv_num_blocks, MFA_BUFFER_KV_NUM_BLOCKS, LISTS_BLOCKS, false),
    BINDING(kv_indices, MFA_BUFFER_KV_INDICES, LISTS_BLOCKS, false),
    BINDING(full_kv_num_blocks, MFA_BUFFER_FULL_KV_NUM_BLOCKS, LISTS_BLOCKS, false),
    BINDING(full_kv_indices, MFA_BUFFER_FULL_KV_INDICES, LISTS_BLOCKS, false),
    BINDING(block_mask, MFA_BUFFER_BLOCK_MASK, LISTS_BLOCKS, false),
    BINDING(mask_indices, MFA_BUFFER_MASK_INDICES, LISTS_BLOCKS, false),
    BINDING(masks, MFA_BUFFER_MASKS, ATTENDS, false),
    BINDING(query_starts, MFA_BUFFER_QUERY_STARTS, KNOWS_SEQUENCES, false),
    BINDING(key_starts, MFA_BUFFER_KEY_STARTS, KNOWS_SEQUENCES, false),
    BINDING(query_lengths, MFA_BUFFER_QUERY_LENGTHS, KNOWS_SEQUENCES, false),
    BINDING(key_lengths, MFA_BUFFER_KEY_LENGTHS, KNOWS_SEQUENCES, false),
    BINDING(left_padding, MFA_BUFFER_LEFT_PADDING, KNOWS_SEQUENCES, false),
    BINDING(key_batches, MFA_BUFFER_KEY_BATCHES, KNOWS_SEQUENCES, false),
    BINDING(page_table, MFA_BUFFER_PAGE_TABLE, KNOWS_SEQUENCES, false),
    BINDING(query_value, MFA_BUFFER_QUERY_VALUE, ATTENDS, true),
    BINDING(query_scale, MFA_BUFFER_QUERY_SCALE, ATTENDS, false),
    BINDING(key_scale, MFA_BUFFER_KEY_SCALE, ATTENDS, false),
    BINDING(value_scale, MFA_BUFFER_VALUE_SCALE, ATTENDS, false),
    CODES(key, scales, MFA_BUFFER_KEY_SCALES),
    CODES(key, zero_points, MFA_BUFFER_KEY_ZERO_POINTS),
    CODES(key, mean, MFA_BUFFER_KEY_MEAN),
    CODES(value, scales, MFA_BUFFER_VALUE_SCALES),
    CODES(value, zero_points, MFA_BUFFER_VALUE_ZERO_POINTS),
    BINDING(new_key, MFA_BUFFER_NEW_KEY, APPENDS, false),
    BINDING(new_value, MFA_BUFFER_NEW_VALUE, APPENDS, false),
    BINDING(new_starts, MFA_BUFFER_NEW_STARTS, ATTENDS | APPENDS, false),
    BINDING(rotary_cos, MFA_BUFFER_ROTARY_COS, APPENDS, false),
    BINDING(rotary_sin, MFA_BUFFER_ROTARY_SIN, APPENDS, false),
    BINDING(rotary_positions, MFA_BUFFER_ROTARY_POSITIONS, APPENDS, false),
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
        .kinds = binding->kinds,
    };
}

void mfai_metal_add_operands(mfai_metal_call_t *call, const mfai_problem_t *problem) {
    for (int i = 0; i < MFAI_OPERANDS; ++i)
        add(call, problem, &mfai_operands[i], mfai_operand_use(&mfai_operands[i], problem));
}
#endif
