/* Prints the size of each public struct and the offset of each field, for comparison with layout.txt. */
#include <stdio.h>

#include "mfa.h"

#define STRUCT(type) printf("%s %zu\n", #type, sizeof(type))
#define FIELD(type, field) printf("%s.%s %zu %zu\n", #type, #field, offsetof(type, field), sizeof(((type *)0)->field))

int main(void) {
    STRUCT(mfa_context_options_t);
    FIELD(mfa_context_options_t, struct_size);
    FIELD(mfa_context_options_t, backend);
    FIELD(mfa_context_options_t, device);
    FIELD(mfa_context_options_t, num_threads);
    FIELD(mfa_context_options_t, cpu_isa);
    FIELD(mfa_context_options_t, flags);
    STRUCT(mfa_context_info_t);
    FIELD(mfa_context_info_t, struct_size);
    FIELD(mfa_context_info_t, backend);
    FIELD(mfa_context_info_t, num_threads);
    FIELD(mfa_context_info_t, cpu_isa);
    FIELD(mfa_context_info_t, flags);
    FIELD(mfa_context_info_t, backend_name);
    FIELD(mfa_context_info_t, isa_name);
    FIELD(mfa_context_info_t, device_name);
    STRUCT(mfa_tensor_t);
    FIELD(mfa_tensor_t, struct_size);
    FIELD(mfa_tensor_t, precision);
    FIELD(mfa_tensor_t, data);
    FIELD(mfa_tensor_t, buffer);
    FIELD(mfa_tensor_t, byte_offset);
    FIELD(mfa_tensor_t, shape);
    FIELD(mfa_tensor_t, stride);
    STRUCT(mfa_attention_desc_t);
    FIELD(mfa_attention_desc_t, struct_size);
    FIELD(mfa_attention_desc_t, flags);
    FIELD(mfa_attention_desc_t, query);
    FIELD(mfa_attention_desc_t, key);
    FIELD(mfa_attention_desc_t, value);
    FIELD(mfa_attention_desc_t, out);
    FIELD(mfa_attention_desc_t, logsumexp);
    FIELD(mfa_attention_desc_t, bool_mask);
    FIELD(mfa_attention_desc_t, additive_mask);
    FIELD(mfa_attention_desc_t, alibi_slopes);
    FIELD(mfa_attention_desc_t, sinks);
    FIELD(mfa_attention_desc_t, softmax_scale);
    FIELD(mfa_attention_desc_t, softcap);
    FIELD(mfa_attention_desc_t, alignment);
    FIELD(mfa_attention_desc_t, intermediate_precision);
    FIELD(mfa_attention_desc_t, window_left);
    FIELD(mfa_attention_desc_t, window_right);
    FIELD(mfa_attention_desc_t, dropout_p);
    FIELD(mfa_attention_desc_t, reserved);
    FIELD(mfa_attention_desc_t, dropout_seed);
    FIELD(mfa_attention_desc_t, dropout_offset);
    STRUCT(mfa_attention_backward_desc_t);
    FIELD(mfa_attention_backward_desc_t, struct_size);
    FIELD(mfa_attention_backward_desc_t, flags);
    FIELD(mfa_attention_backward_desc_t, forward);
    FIELD(mfa_attention_backward_desc_t, dout);
    FIELD(mfa_attention_backward_desc_t, dquery);
    FIELD(mfa_attention_backward_desc_t, dkey);
    FIELD(mfa_attention_backward_desc_t, dvalue);
    FIELD(mfa_attention_backward_desc_t, dbias);
    FIELD(mfa_attention_backward_desc_t, dsinks);
    STRUCT(mfa_plan_t);
    FIELD(mfa_plan_t, struct_size);
    FIELD(mfa_plan_t, status);
    FIELD(mfa_plan_t, backend);
    FIELD(mfa_plan_t, fallback);
    FIELD(mfa_plan_t, tile_queries);
    FIELD(mfa_plan_t, tile_keys);
    FIELD(mfa_plan_t, key_splits);
    FIELD(mfa_plan_t, num_threads);
    FIELD(mfa_plan_t, workspace_bytes);
    FIELD(mfa_plan_t, kernel);
    FIELD(mfa_plan_t, isa);
    FIELD(mfa_plan_t, reason);
    return 0;
}
