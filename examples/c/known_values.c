/*
 * Forward, backward, a sliding window, a block mask and quantised keys and values, each compared with known values:
 * of head 1, row 5, columns 0 to 3.
 */
#include "wrapped.h"
#include <math.h>

enum { HEADS = 2, ROWS = 8, HEAD_DIM = 8, ELEMENTS = HEADS * ROWS * HEAD_DIM, BLOCK_ROWS = 4, BLOCK_KEYS = 2 };
enum { QUERY, KEY, VALUE, OUT, LOGSUMEXP, DOUT, DQUERY, DKEY, DVALUE, KEY_CODES, VALUE_CODES, SCALES, BLOCKS, COUNT };

static float query[ELEMENTS], key[ELEMENTS], value[ELEMENTS], out[ELEMENTS], logsumexp[HEADS * ROWS];
static float dout[ELEMENTS], dquery[ELEMENTS], dkey[ELEMENTS], dvalue[ELEMENTS];
static int8_t key_codes[ELEMENTS], value_codes[ELEMENTS];
static float scales[HEADS] = {0.125f, 0.25f};
static bool seen[ROWS / BLOCK_ROWS][ROWS / BLOCK_KEYS] = {{1, 1, 0, 0}, {1, 0, 1, 1}};

#define ARRAY(array) array, sizeof array
static const struct {
    void *memory;
    size_t bytes;
    mfa_precision_t precision;
    int64_t shape[4];
} arrays[COUNT] = {
    [QUERY] = {ARRAY(query), MFA_PRECISION_FP32, {1, HEADS, ROWS, HEAD_DIM}},
    [KEY] = {ARRAY(key), MFA_PRECISION_FP32, {1, HEADS, ROWS, HEAD_DIM}},
    [VALUE] = {ARRAY(value), MFA_PRECISION_FP32, {1, HEADS, ROWS, HEAD_DIM}},
    [OUT] = {ARRAY(out), MFA_PRECISION_FP32, {1, HEADS, ROWS, HEAD_DIM}},
    [LOGSUMEXP] = {ARRAY(logsumexp), MFA_PRECISION_FP32, {1, HEADS, ROWS, 1}},
    [DOUT] = {ARRAY(dout), MFA_PRECISION_FP32, {1, HEADS, ROWS, HEAD_DIM}},
    [DQUERY] = {ARRAY(dquery), MFA_PRECISION_FP32, {1, HEADS, ROWS, HEAD_DIM}},
    [DKEY] = {ARRAY(dkey), MFA_PRECISION_FP32, {1, HEADS, ROWS, HEAD_DIM}},
    [DVALUE] = {ARRAY(dvalue), MFA_PRECISION_FP32, {1, HEADS, ROWS, HEAD_DIM}},
    [KEY_CODES] = {ARRAY(key_codes), MFA_PRECISION_INT8, {1, HEADS, ROWS, HEAD_DIM}},
    [VALUE_CODES] = {ARRAY(value_codes), MFA_PRECISION_INT8, {1, HEADS, ROWS, HEAD_DIM}},
    [SCALES] = {ARRAY(scales), MFA_PRECISION_FP32, {1, HEADS, 1, 1}},
    [BLOCKS] = {ARRAY(seen), MFA_PRECISION_BOOL, {1, 1, ROWS / BLOCK_ROWS, ROWS / BLOCK_KEYS}},
};

static int code(int step, int shift, int i) { return (step * i + shift) % 17 - 8; }

static void fill(void) {
    for (int i = 0; i < ELEMENTS; ++i) {
        query[i] = (float)code(5, 0, i) / 8;
        key[i] = (float)(key_codes[i] = (int8_t)code(7, 3, i)) / 8;
        value[i] = (float)(value_codes[i] = (int8_t)code(11, 5, i)) / 8;
        dout[i] = (float)code(3, 1, i) / 8;
    }
}

/* Prints the four values of `result`; false if they are not the known ones. */
static bool known(const char *name, const float *result, float a, float b, float c, float d) {
    const float *row = result + (1 * ROWS + 5) * HEAD_DIM, expected[4] = {a, b, c, d};
    printf("%s %f %f %f %f\n", name, row[0], row[1], row[2], row[3]);
    for (int column = 0; column < 4; ++column)
        if (!(fabsf(row[column] - expected[column]) < 1e-5f)) {
            fprintf(stderr, "%s is %f in column %d, expected %f\n", name, row[column], column, expected[column]);
            return false;
        }
    return true;
}

static mfa_attention_desc_t attention(const operand_t *of) {
    mfa_attention_desc_t desc = MFA_ATTENTION_DESC_INIT;
    desc.query = &of[QUERY].tensor, desc.key = &of[KEY].tensor, desc.value = &of[VALUE].tensor;
    desc.out = &of[OUT].tensor;
    return desc;
}

/* Each of these runs its calls and adds to `agree` whether the results are right. */
static mfa_status_t forward(mfa_context_t context, const operand_t *of, bool *agree) {
    const mfa_attention_desc_t desc = attention(of);
    const mfa_status_t status = mfa_attention_forward_desc(context, &desc);
    if (!status)
        *agree &= known("forward", out, 0.222707f, -0.012910f, -0.264847f, 0.097707f);
    return status;
}

static mfa_status_t backward(mfa_context_t context, const operand_t *of, bool *agree) {
    mfa_attention_desc_t desc = attention(of);
    desc.flags = MFA_ATTENTION_CAUSAL, desc.alignment = MFA_ALIGN_TOP_LEFT;
    desc.logsumexp = &of[LOGSUMEXP].tensor;
    mfa_attention_backward_desc_t gradients = MFA_ATTENTION_BACKWARD_DESC_INIT;
    gradients.forward = &desc, gradients.dout = &of[DOUT].tensor;
    gradients.dquery = &of[DQUERY].tensor, gradients.dkey = &of[DKEY].tensor, gradients.dvalue = &of[DVALUE].tensor;
    mfa_status_t status = mfa_attention_forward_desc(context, &desc);
    if (!status)
        status = mfa_attention_backward_desc(context, &gradients);
    if (status)
        return status;
    *agree &= known("dq", dquery, 0.034121f, -0.116048f, 0.024352f, -0.027352f);
    *agree &= known("dk", dkey, 0.044962f, 0.017408f, -0.049931f, 0.036372f);
    *agree &= known("dv", dvalue, -0.047868f, -0.027844f, 0.124267f, 0.276377f);
    return MFA_SUCCESS;
}

static mfa_status_t window(mfa_context_t context, const operand_t *of, bool *agree) {
    mfa_attention_desc_t desc = attention(of);
    desc.alignment = MFA_ALIGN_TOP_LEFT, desc.window_left = 2, desc.window_right = 0;
    const mfa_status_t status = mfa_attention_forward_desc(context, &desc);
    if (!status)
        *agree &= known("window", out, -0.101362f, -0.108237f, 0.523638f, -0.226362f);
    return status;
}

static mfa_status_t blocks(mfa_context_t context, const operand_t *of, bool *agree) {
    mfa_blocks_t mask = MFA_BLOCKS_INIT;
    mask.block_rows = BLOCK_ROWS, mask.block_keys = BLOCK_KEYS, mask.block_mask = &of[BLOCKS].tensor;
    mfa_attention_desc_t desc = attention(of);
    desc.blocks = &mask;
    const mfa_status_t status = mfa_attention_forward_desc(context, &desc);
    if (!status)
        *agree &= known("blocks", out, 0.510920f, -0.239080f, -0.331950f, 0.385920f);
    return status;
}

static mfa_status_t quantised(mfa_context_t context, const operand_t *of, bool *agree) {
    mfa_quantization_t per_head = MFA_QUANTIZATION_INIT;
    per_head.scales = &of[SCALES].tensor;
    mfa_attention_desc_t desc = attention(of);
    desc.key = &of[KEY_CODES].tensor, desc.value = &of[VALUE_CODES].tensor;
    desc.key_quantization = desc.value_quantization = &per_head;
    const mfa_status_t status = mfa_attention_forward_desc(context, &desc);
    if (!status)
        *agree &= known("quantised", out, 0.509885f, -0.074666f, -0.655668f, 0.259885f);
    return status;
}

int main(void) {
    if (!library_is_new_enough())
        return 1;
    fill();
    static mfa_status_t (*const parts[])(mfa_context_t, const operand_t *, bool *) = {forward, backward, window, blocks,
                                                                                      quantised};
    static operand_t of[COUNT];
    mfa_context_t context = NULL;
    bool agree = true;
    mfa_status_t status = mfa_create_context(&context);
    for (int i = 0; i < COUNT && !status; ++i)
        status = operand_wrap(context, arrays[i].memory, arrays[i].bytes, arrays[i].precision, arrays[i].shape, &of[i]);
    for (size_t i = 0; i < sizeof parts / sizeof *parts && !status; ++i)
        status = parts[i](context, of, &agree);
    if (status)
        fprintf(stderr, "%s: %s\n", mfa_error_string(status), mfa_last_error_message(context));
    for (int i = 0; i < COUNT; ++i)
        operand_release(&of[i]);
    mfa_destroy_context(context);
    return status || !agree;
}
