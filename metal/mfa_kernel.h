/* What every kernel begins with: the standard library, the parameters, and the features of this specialisation. */
#ifndef MFA_KERNEL_H
#define MFA_KERNEL_H

#include <metal_stdlib>
using namespace metal;

#include "mfa_params.h"

constant bool has_logsumexp [[function_constant(MFA_CONSTANT_LOGSUMEXP)]];
constant bool has_bool_mask [[function_constant(MFA_CONSTANT_BOOL_MASK)]];
constant uint additive_mask_type [[function_constant(MFA_CONSTANT_ADDITIVE_MASK)]];
constant bool has_alibi [[function_constant(MFA_CONSTANT_ALIBI)]];
constant bool has_sinks [[function_constant(MFA_CONSTANT_SINKS)]];
constant bool has_softcap [[function_constant(MFA_CONSTANT_SOFTCAP)]];
constant bool has_dropout [[function_constant(MFA_CONSTANT_DROPOUT)]];
constant bool exact_weights [[function_constant(MFA_CONSTANT_EXACT_WEIGHTS)]];
constant bool has_huge_scale [[function_constant(MFA_CONSTANT_HUGE_SCALE)]];
constant bool has_vectors [[function_constant(MFA_CONSTANT_VECTORS)]];
constant bool has_blocks [[function_constant(MFA_CONSTANT_BLOCKS)]];
constant uint lists_there [[function_constant(MFA_CONSTANT_LISTS)]];
constant bool has_chunk [[function_constant(MFA_CONSTANT_CHUNK)]];
constant bool has_block_masks [[function_constant(MFA_CONSTANT_BLOCK_MASKS)]];
constant bool has_query_value [[function_constant(MFA_CONSTANT_QUERY_VALUE)]];
constant uint scales_there [[function_constant(MFA_CONSTANT_SCALES)]];
constant uint key_codes [[function_constant(MFA_CONSTANT_KEY_CODES)]];
constant uint value_codes [[function_constant(MFA_CONSTANT_VALUE_CODES)]];
constant bool has_rotary [[function_constant(MFA_CONSTANT_ROTARY)]];
constant bool is_interleaved [[function_constant(MFA_CONSTANT_INTERLEAVED)]];
constant bool has_float_cosines [[function_constant(MFA_CONSTANT_FLOAT_COSINES)]];
constant bool has_float_sines [[function_constant(MFA_CONSTANT_FLOAT_SINES)]];

constant bool has_additive_mask = additive_mask_type != 0;
constant bool has_mask = has_bool_mask || has_additive_mask;
constant bool blocks_are_masked = has_blocks && (has_bool_mask || has_block_masks); /* those that are not full */

constant bool has_sequences = (lists_there & MFA_LIST_SEQUENCES) != 0;
constant bool has_query_starts = (lists_there & MFA_LIST_QUERY_STARTS) != 0;
constant bool has_key_starts = (lists_there & MFA_LIST_KEY_STARTS) != 0;
constant bool has_query_lengths = (lists_there & MFA_LIST_QUERY_LENGTHS) != 0;
constant bool has_key_lengths = (lists_there & MFA_LIST_KEY_LENGTHS) != 0;
constant bool has_left_padding = (lists_there & MFA_LIST_LEFT_PADDING) != 0;
constant bool has_key_batches = (lists_there & MFA_LIST_KEY_BATCHES) != 0;
constant bool has_pages = (lists_there & MFA_LIST_PAGE_TABLE) != 0;
constant bool has_append = (lists_there & MFA_LIST_APPEND) != 0;
constant bool has_new_starts = (lists_there & MFA_LIST_NEW_STARTS) != 0;
constant bool has_rotary_positions = (lists_there & MFA_LIST_ROTARY_POSITIONS) != 0;

constant bool has_query_scale = (scales_there & MFA_SCALE_QUERY) != 0;
constant bool has_key_scale = (scales_there & MFA_SCALE_KEY) != 0;
constant bool has_value_scale = (scales_there & MFA_SCALE_VALUE) != 0;

constant bool has_key_codes = (key_codes & MFA_CODES_SCALES) != 0;
constant bool has_key_zero_points = (key_codes & MFA_CODES_ZERO_POINTS) != 0;
constant bool has_key_mean = (key_codes & MFA_CODES_MEAN) != 0;
constant bool has_integer_keys = (key_codes & MFA_CODES_INTEGERS) != 0;     /* and queries */
constant bool has_own_queries = has_rotary || has_integer_keys;             /* written by kernels before this */
constant bool has_integer_values = (value_codes & MFA_CODES_INTEGERS) != 0; /* and weights */
constant bool has_value_codes = (value_codes & MFA_CODES_SCALES) != 0;
constant bool has_value_zero_points = (value_codes & MFA_CODES_ZERO_POINTS) != 0;

/* Elements from an operand's first to column 0 of a row. */
inline mfa_index mfa_place(constant mfa_metal_strides &strides, mfa_index batch, mfa_index head, mfa_index row) {
    return batch * strides.batch + head * strides.head + row * strides.row;
}

/* Of numbers that are not negative. GPUs have no instruction that divides 64 bits. */
inline mfa_index mfa_quotient(mfa_index number, mfa_index divisor) {
    return (number | divisor) >> 32 == 0 ? mfa_index(mfa_u32(number) / mfa_u32(divisor)) : number / divisor;
}

#endif
