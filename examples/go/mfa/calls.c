#include "calls.h"

/* A tensor, packed, and what points to it: NULL where there is none. */
static const mfa_tensor_t *packed(mfa_tensor_t *tensor, const mfago_tensor *of, mfago_bytes *data) {
    *tensor = (mfa_tensor_t)MFA_TENSOR_INIT;
    tensor->precision = of->precision;
    tensor->data = data;
    int64_t stride = 1; /* Go has checked that the product fits */
    for (int axis = 3; axis >= 0; axis--) {
        tensor->shape[axis] = of->shape[axis];
        tensor->stride[axis] = stride;
        stride *= of->shape[axis];
    }
    return of->given ? tensor : NULL;
}

/* What a descriptor points to. */
typedef struct memory {
    mfa_tensor_t query, key, value, out, logsumexp, block_mask, key_scales, value_scales;
    mfa_blocks_t blocks;
    mfa_quantization_t key_quantization, value_quantization;
} memory;

static const mfa_quantization_t *quantised(mfa_quantization_t *quantization, mfa_tensor_t *tensor,
                                           const mfago_tensor *of, mfago_bytes *scales) {
    *quantization = (mfa_quantization_t)MFA_QUANTIZATION_INIT;
    quantization->scales = packed(tensor, of, scales);
    return of->given ? quantization : NULL;
}

static mfa_attention_desc_t described(memory *in, const mfago_attention *of, mfago_bytes *query, mfago_bytes *key,
                                      mfago_bytes *value, mfago_bytes *out, mfago_bytes *logsumexp,
                                      mfago_bytes *block_mask, mfago_bytes *key_scales, mfago_bytes *value_scales) {
    mfa_attention_desc_t desc = MFA_ATTENTION_DESC_INIT;
    desc.flags = of->flags;
    desc.alignment = of->alignment;
    desc.softmax_scale = of->scale;
    desc.window_left = of->window_left;
    desc.window_right = of->window_right;
    desc.query = packed(&in->query, &of->query, query);
    desc.key = packed(&in->key, &of->key, key);
    desc.value = packed(&in->value, &of->value, value);
    desc.out = packed(&in->out, &of->out, out);
    desc.logsumexp = packed(&in->logsumexp, &of->logsumexp, logsumexp);
    if (of->block_mask.given) {
        in->blocks = (mfa_blocks_t)MFA_BLOCKS_INIT;
        in->blocks.block_rows = of->block_rows;
        in->blocks.block_keys = of->block_keys;
        in->blocks.block_mask = packed(&in->block_mask, &of->block_mask, block_mask);
        desc.blocks = &in->blocks;
    }
    desc.key_quantization = quantised(&in->key_quantization, &in->key_scales, &of->key_scales, key_scales);
    desc.value_quantization = quantised(&in->value_quantization, &in->value_scales, &of->value_scales, value_scales);
    return desc;
}

mfa_status_t mfago_create(int32_t backend, int32_t threads, mfa_context_t *context) {
    mfa_context_options_t options = MFA_CONTEXT_OPTIONS_INIT;
    options.backend = backend;
    options.num_threads = threads;
    return mfa_create_context_with_options(&options, context);
}

mfa_status_t mfago_forward(mfa_context_t context, const mfago_attention *attention, mfago_bytes *query,
                           mfago_bytes *key, mfago_bytes *value, mfago_bytes *out, mfago_bytes *logsumexp,
                           mfago_bytes *block_mask, mfago_bytes *key_scales, mfago_bytes *value_scales) {
    memory in;
    const mfa_attention_desc_t desc =
        described(&in, attention, query, key, value, out, logsumexp, block_mask, key_scales, value_scales);
    return mfa_attention_forward_desc(context, &desc);
}

mfa_status_t mfago_backward(mfa_context_t context, const mfago_attention *attention, mfago_bytes *query,
                            mfago_bytes *key, mfago_bytes *value, mfago_bytes *out, mfago_bytes *logsumexp,
                            mfago_bytes *block_mask, mfago_bytes *key_scales, mfago_bytes *value_scales,
                            const mfago_gradients *gradients, mfago_bytes *dout, mfago_bytes *dquery, mfago_bytes *dkey,
                            mfago_bytes *dvalue) {
    memory in;
    const mfa_attention_desc_t forward =
        described(&in, attention, query, key, value, out, logsumexp, block_mask, key_scales, value_scales);
    mfa_tensor_t of_out, of_query, of_key, of_value;
    mfa_attention_backward_desc_t desc = MFA_ATTENTION_BACKWARD_DESC_INIT;
    desc.forward = &forward;
    desc.dout = packed(&of_out, &gradients->dout, dout);
    desc.dquery = packed(&of_query, &gradients->dquery, dquery);
    desc.dkey = packed(&of_key, &gradients->dkey, dkey);
    desc.dvalue = packed(&of_value, &gradients->dvalue, dvalue);
    return mfa_attention_backward_desc(context, &desc);
}

mfa_status_t mfago_quantize(mfa_context_t context, const mfago_tensor *input, mfago_bytes *elements,
                            const mfago_tensor *codes, mfago_bytes *to, const mfago_tensor *scales,
                            mfago_bytes *scales_to) {
    mfa_tensor_t from_tensor, to_tensor, scales_tensor;
    mfa_quantization_t quantization;
    mfa_quantize_desc_t desc = MFA_QUANTIZE_DESC_INIT;
    desc.input = packed(&from_tensor, input, elements);
    desc.codes = packed(&to_tensor, codes, to);
    desc.quantization = quantised(&quantization, &scales_tensor, scales, scales_to);
    return mfa_quantize(context, &desc);
}
