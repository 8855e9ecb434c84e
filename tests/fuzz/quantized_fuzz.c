/*
 * The simple tier of quantised attention, with wrong buffers, sizes and parameters among the right ones, and a batch of
 * tensors that it quantises. Which are right is decided here once more; what is right has the bits of the descriptor
 * call that it stands for, and the codes that mfa.h defines.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "problem.h"

enum { Q, K, V, O, LSE, D_OUT, D_VALUES, DQ, DK, DV, BUFFERS };
enum { MIXED, FORWARD, BACKWARD_QUERY, BACKWARD_KV, KINDS };

typedef mfa_quantization_params_t params_t;

typedef struct {
    mfa_context_t context;
    mfa_buffer_t buffers[BUFFERS], foreign;
    bool remembers[BUFFERS]; /* which of its own keys and values were made with params */
    uint32_t batch, rows, keys, heads;
    uint16_t dim;
    float scale;
    int32_t precision[3], output; /* of q, k and v */
    params_t params[2];           /* of k and v */
    bool causal, has_lse, transposed[4];
} call_t;

static const unsigned used[KINDS] = {
    1 << Q | 1 << K | 1 << V | 1 << O, 1 << Q | 1 << K | 1 << V | 1 << O | 1 << LSE,
    1 << Q | 1 << K | 1 << V | 1 << O | 1 << LSE | 1 << D_OUT | 1 << D_VALUES | 1 << DQ,
    1 << Q | 1 << K | 1 << V | 1 << LSE | 1 << D_OUT | 1 << D_VALUES | 1 << DK | 1 << DV};
static const unsigned outputs[KINDS] = {1 << O, 1 << O | 1 << LSE, 1 << D_VALUES | 1 << DQ, 1 << DK | 1 << DV};

/* ------------------------------------------------------------------ parameters */

static bool is_codes(int32_t precision) { return precision == MFA_PRECISION_INT8 || precision == MFA_PRECISION_INT4; }

static bool are_right(const params_t *p) {
    const int32_t least = p->precision == MFA_PRECISION_INT8 ? -128 : -8;
    return is_codes(p->precision) && p->scale > 0 && isfinite(p->scale) && p->zero_point >= least &&
           p->zero_point < -2 * least;
}

static int32_t format_of(const params_t *p) {
    if (p->precision == MFA_PRECISION_INT8)
        return p->zero_point < 128 ? MFA_PRECISION_INT8 : MFA_PRECISION_UINT8;
    return p->zero_point < 8 ? MFA_PRECISION_INT4 : MFA_PRECISION_UINT4;
}

static int32_t lowest_of(const params_t *p) {
    const int32_t format = format_of(p);
    return format == MFA_PRECISION_INT8 ? -128 : format == MFA_PRECISION_INT4 ? -8 : 0;
}

static int32_t levels_of(const params_t *p) { return p->precision == MFA_PRECISION_INT8 ? 256 : 16; }

static params_t read_params(reader_t *r) {
    static const float scales[] = {0.01f, 0.1f, 1, 0x1p-149f, 3e38f, 0, -1, INFINITY, NAN};
    static const int32_t zero_points[] = {0, -8, 7, 8, 15, -128, 127, 128, 255, 3};
    const int is_wrong = read_below(r, 16);
    params_t p = {scales[read_below(r, is_wrong == 1 ? 9 : 5)], 0, MFA_PRECISION_INT8 + read_below(r, 2)};
    p.zero_point = zero_points[read_below(r, is_wrong == 2 || p.precision == MFA_PRECISION_INT8 ? 10 : 5)];
    if (is_wrong == 3)
        p.precision = (int32_t)read_integer(r);
    if (is_wrong == 4)
        p.zero_point = (int32_t)read_integer(r);
    return p;
}

/* ------------------------------------------------------------------- attention */

static bool is_of_keys(int i) { return i == K || i == V || i == DK || i == DV; }
static bool is_of_rows(int i) { return i == LSE || i == D_VALUES; }

static int32_t precision_of(const call_t *c, int kind, int i) {
    if (i == K || i == V)
        return kind != MIXED || is_codes(c->precision[i]) ? format_of(&c->params[i - K]) : c->precision[i];
    return i == Q                    ? (kind == MIXED ? c->precision[Q] : MFA_PRECISION_FP16)
           : i == O && kind == MIXED ? c->output
                                     : MFA_PRECISION_FP32;
}

static __int128 bytes_of(const call_t *c, int kind, int i) {
    const __int128 rows = (__int128)c->batch * c->heads * (is_of_keys(i) ? c->keys : c->rows);
    const int32_t precision = precision_of(c, kind, i);
    if (precision == MFA_PRECISION_INT4 || precision == MFA_PRECISION_UINT4)
        return rows * ((c->dim + 1) / 2);
    return rows * (is_of_rows(i) ? 1 : c->dim) * precision_size(precision);
}

static bool is_used(const call_t *c, int kind, int i) {
    return used[kind] >> i & 1 && (kind != FORWARD || i != LSE || c->has_lse);
}

static mfa_status_t call(const call_t *c, int kind) {
    const mfa_buffer_t *b = c->buffers;
    const bool *t = c->transposed;
    forget_message();
    switch (kind) {
    case MIXED:
        return checked("forward_mixed", mfa_attention_forward_mixed(
                                            c->context, b[Q], b[K], b[V], b[O], c->batch, c->rows, c->keys, c->heads,
                                            c->dim, c->scale, c->causal, c->precision[Q], c->precision[K],
                                            c->precision[V], c->output, t[0], t[1], t[2], t[3]));
    case FORWARD:
        return checked("forward_quantized",
                       mfa_attention_forward_quantized(c->context, b[Q], b[K], b[V], b[O], c->has_lse ? b[LSE] : NULL,
                                                       c->batch, c->rows, c->keys, c->heads, c->dim, c->scale,
                                                       c->causal, &c->params[0], &c->params[1]));
    case BACKWARD_QUERY:
        return checked("backward_query_quantized",
                       mfa_attention_backward_query_quantized(
                           c->context, b[Q], b[K], b[V], b[O], b[D_OUT], b[LSE], b[DQ], b[D_VALUES], c->batch, c->rows,
                           c->keys, c->heads, c->dim, c->scale, c->causal, &c->params[0], &c->params[1]));
    default:
        return checked("backward_kv_quantized",
                       mfa_attention_backward_kv_quantized(c->context, b[Q], b[K], b[V], b[D_OUT], b[LSE], b[D_VALUES],
                                                           b[DK], b[DV], c->batch, c->rows, c->keys, c->heads, c->dim,
                                                           c->scale, c->causal, &c->params[0], &c->params[1]));
    }
}

static bool is_float(int32_t precision) { return precision >= MFA_PRECISION_FP16 && precision <= MFA_PRECISION_FP32; }

static bool has_right_precisions(const call_t *c, int kind) {
    if (kind != MIXED)
        return are_right(&c->params[0]) && are_right(&c->params[1]);
    if (!is_float(c->precision[Q]) || !is_float(c->output))
        return false;
    for (int i = K; i <= V; ++i) {
        const bool is_own = c->remembers[i] && c->precision[i] == c->params[i - K].precision;
        if (is_codes(c->precision[i]) ? !is_own || c->transposed[i] : c->precision[i] != c->precision[Q])
            return false;
    }
    return true;
}

/* A size of 0 needs no memory. */
static bool is_right(const call_t *c, int kind) {
    if (c->context == NULL || c->heads == 0 || c->dim == 0 || !isfinite(c->scale) || !has_right_precisions(c, kind))
        return false;
    for (int i = 0; i < BUFFERS; ++i) {
        if (!is_used(c, kind, i))
            continue;
        const mfa_buffer_t buffer = c->buffers[i];
        if (buffer == NULL || buffer == c->foreign || bytes_of(c, kind, i) > (__int128)mfa_buffer_size(buffer))
            return false;
        for (int other = 0; other < BUFFERS; ++other)
            if (other != i && (outputs[kind] >> i & 1) && is_used(c, kind, other) && buffer == c->buffers[other] &&
                bytes_of(c, kind, i) > 0 && bytes_of(c, kind, other) > 0)
                return false;
    }
    return true;
}

/* The same call by descriptor, for comparing. */
static mfa_tensor_t describe(const call_t *c, int kind, int i) {
    static const int sides[BUFFERS] = {[Q] = 0, [K] = 1, [V] = 2, [O] = 3};
    mfa_tensor_t t = MFA_TENSOR_INIT;
    t.precision = precision_of(c, kind, i);
    t.buffer = c->buffers[i];
    const bool turned = is_of_rows(i) || (kind == MIXED && i <= O && c->transposed[sides[i]]);
    const bool is_packed = t.precision == MFA_PRECISION_INT4 || t.precision == MFA_PRECISION_UINT4;
    const int64_t seq = is_of_keys(i) ? c->keys : c->rows, heads = c->heads, dim = is_of_rows(i) ? 1 : c->dim;
    const int64_t row = is_packed ? (dim + 1) / 2 * 2 : dim;
    const int64_t shape[4] = {c->batch, heads, seq, dim};
    const int64_t plain[4] = {seq * heads * row, row, heads * row, 1},
                  turns[4] = {seq * heads * dim, dim * seq, 1, seq};
    memcpy(t.shape, shape, sizeof shape);
    memcpy(t.stride, turned ? turns : plain, sizeof plain);
    return t;
}

/* One element that stands for all. */
static mfa_tensor_t one(int32_t precision, void *data) {
    mfa_tensor_t t = MFA_TENSOR_INIT;
    t.precision = precision;
    t.data = data;
    for (int axis = 0; axis < 4; ++axis)
        t.shape[axis] = 1;
    return t;
}

static void call_by_descriptor(call_t *c, int kind) {
    mfa_tensor_t t[BUFFERS], scales[2], zero_points[2];
    mfa_quantization_t quantization[2] = {MFA_QUANTIZATION_INIT, MFA_QUANTIZATION_INIT};
    for (int i = 0; i < BUFFERS; ++i)
        t[i] = describe(c, kind, i);
    for (int i = 0; i < 2; ++i) {
        scales[i] = one(MFA_PRECISION_FP32, &c->params[i].scale);
        zero_points[i] = one(MFA_PRECISION_INT32, &c->params[i].zero_point);
        quantization[i].scales = &scales[i];
        quantization[i].zero_points = c->params[i].zero_point != 0 ? &zero_points[i] : NULL;
    }
    mfa_attention_desc_t forward = MFA_ATTENTION_DESC_INIT;
    forward.flags = MFA_ATTENTION_LITERAL_SCALE | (c->causal ? MFA_ATTENTION_CAUSAL : 0);
    forward.query = &t[Q], forward.key = &t[K], forward.value = &t[V];
    forward.out = kind != BACKWARD_KV ? &t[O] : NULL;
    forward.logsumexp = kind > MIXED && is_used(c, kind, LSE) ? &t[LSE] : NULL;
    forward.softmax_scale = c->scale;
    forward.alignment = MFA_ALIGN_BOTTOM_RIGHT;
    forward.key_quantization = kind != MIXED || is_codes(c->precision[K]) ? &quantization[0] : NULL;
    forward.value_quantization = kind != MIXED || is_codes(c->precision[V]) ? &quantization[1] : NULL;
    mfa_attention_backward_desc_t backward = MFA_ATTENTION_BACKWARD_DESC_INIT;
    backward.forward = &forward;
    backward.dout = &t[D_OUT], backward.delta = &t[D_VALUES];
    backward.dquery = kind == BACKWARD_QUERY ? &t[DQ] : NULL;
    backward.dkey = kind == BACKWARD_KV ? &t[DK] : NULL;
    backward.dvalue = kind == BACKWARD_KV ? &t[DV] : NULL;
    EXPECT((kind >= BACKWARD_QUERY ? mfa_attention_backward_desc(c->context, &backward)
                                   : mfa_attention_forward_desc(c->context, &forward)) == MFA_SUCCESS,
           "the descriptor call fails where the flat one does not");
}

/* One without elements may be in any buffer, even an operand's. */
static bool is_written(const call_t *c, int kind, int i) {
    return (outputs[kind] >> i & 1) && is_used(c, kind, i) && bytes_of(c, kind, i) > 0 &&
           mfa_buffer_size(c->buffers[i]) > 0;
}

/* What the outputs' buffers hold, one after the other. */
static unsigned char *snapshot(const call_t *c, int kind, size_t *size) {
    *size = 0;
    unsigned char *copy = malloc(1);
    for (int i = 0; i < BUFFERS; ++i) {
        const size_t more = mfa_buffer_size(c->buffers[i]);
        if (!is_written(c, kind, i))
            continue;
        copy = realloc(copy, *size + more);
        memcpy(copy + *size, mfa_buffer_contents(c->buffers[i]), more);
        *size += more;
    }
    return copy;
}

static void clear_outputs(const call_t *c, int kind) {
    for (int i = 0; i < BUFFERS; ++i)
        if (is_written(c, kind, i))
            memset(mfa_buffer_contents(c->buffers[i]), 0x5a, mfa_buffer_size(c->buffers[i]));
}

static void read_arguments(reader_t *r, call_t *c) {
    static const int32_t precisions[] = {2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 5, 8, -1, 77};
    static const float scales[] = {0.25f, 0, 1, -2, NAN, INFINITY, 1e-40f, 3e38f};
    const int flags = read_below(r, 256);
    c->causal = flags & 1;
    c->has_lse = flags & 2;
    c->precision[Q] = READ_PICK(r, precisions);
    c->output = READ_PICK(r, precisions);
    for (int i = K; i <= V; ++i) {
        c->params[i - K] = read_params(r);
        c->remembers[i] = are_right(&c->params[i - K]);
        c->precision[i] = flags & 4 << i ? c->precision[Q] : c->params[i - K].precision;
    }
    const int turned = read_below(r, 16);
    for (int i = 0; i < 4; ++i)
        c->transposed[i] = turned >> i & 1 && (flags & 32 || i == 0 || i == 3 || !is_codes(c->precision[i]));
    if (read_chance(r, 16))
        c->precision[1 + read_below(r, 2)] = READ_PICK(r, precisions);
    c->batch = (uint32_t)(1 + read_below(r, 2));
    c->heads = (uint32_t)(1 + read_below(r, 3));
    c->dim = (uint16_t)read_size(r, 1, 66);
    c->rows = (uint32_t)read_size(r, 0, 40);
    c->keys = (uint32_t)read_size(r, 0, 70);
    c->scale = READ_PICK(r, scales);
}

/* Sizes that its buffers were not made for. */
static void read_wrong_sizes(reader_t *r, call_t *c) {
    uint32_t *const sizes[] = {&c->batch, &c->rows, &c->keys, &c->heads};
    for (int changes = read_below(r, 3); changes > 0; --changes) {
        const int which = read_below(r, 8);
        if (which < 4)
            *sizes[which] = (uint32_t)read_integer(r);
        else
            c->dim = (uint16_t)read_integer(r);
    }
}

static void fill(reader_t *r, int32_t precision, mfa_buffer_t buffer) {
    uint64_t seed = read_bits(r, 1);
    const size_t size = (size_t)precision_size(precision), count = mfa_buffer_size(buffer) / size;
    for (size_t at = 0; at < count; ++at) {
        const float x = (float)next_uniform(&seed);
        const _Float16 half = (_Float16)x;
        char *to = (char *)mfa_buffer_contents(buffer) + at * size;
        if (precision == MFA_PRECISION_FP16)
            memcpy(to, &half, size);
        else /* the high half of a float is a bfloat16, and any byte a code */
            memcpy(to, (const char *)&x + sizeof x - (size == 1 ? 2 : size), size);
    }
}

/* Keys and values stand for what their buffers remember, whichever these are. */
static void remember(call_t *c, const mfa_buffer_t mine[BUFFERS]) {
    const call_t made = *c;
    for (int i = K; i <= V; ++i) {
        const int from = c->buffers[i] == mine[K] ? K : c->buffers[i] == mine[V] ? V : BUFFERS;
        c->remembers[i] = from < BUFFERS && made.remembers[from];
        if (from < BUFFERS)
            c->params[i - K] = made.params[from - K];
    }
}

static void fuzz_attention(reader_t *r, int kind) {
    call_t c = {.context = context_of(0, 1)};
    mfa_buffer_t mine[BUFFERS];
    read_arguments(r, &c);
    for (int i = 0; i < BUFFERS; ++i) {
        const int shape = read_below(r, 16);
        size_t bytes = (size_t)bytes_of(&c, kind, i);
        bytes = shape == 15 ? bytes / 2 : shape == 14 && bytes > 0 ? bytes - 1 : shape == 13 ? bytes + 7 : bytes;
        c.remembers[i] = c.remembers[i] && shape != 12;
        const params_t *p = &c.params[i == V];
        EXPECT((c.remembers[i]
                    ? mfa_create_quantized_buffer(c.context, bytes, p->precision, p->scale, p->zero_point, &mine[i])
                    : mfa_create_buffer(c.context, bytes, &mine[i])) == MFA_SUCCESS,
               "no buffer");
        fill(r, precision_of(&c, kind, i), mine[i]);
    }
    EXPECT(mfa_create_quantized_buffer(context_of(0, 3), 4096, MFA_PRECISION_INT8, 1, 0, &c.foreign) == MFA_SUCCESS,
           "no buffer");
    memcpy(c.buffers, mine, sizeof mine);
    for (int changes = read_below(r, 3); changes > 0; --changes) {
        const int which = read_below(r, BUFFERS), with = read_below(r, BUFFERS + 2);
        c.buffers[which] = with < BUFFERS ? mine[with] : with == BUFFERS ? c.foreign : NULL;
        c.has_lse &= c.buffers[LSE] != NULL;
    }
    if (kind == MIXED)
        remember(&c, mine);
    read_wrong_sizes(r, &c);
    if (read_chance(r, 32))
        c.context = NULL;

    const bool right = is_right(&c, kind) && !planted("refuse what is right");
    clear_outputs(&c, kind);
    size_t length;
    unsigned char *before = snapshot(&c, kind, &length);
    const mfa_status_t status = call(&c, kind);
    EXPECT(status == (right ? MFA_SUCCESS : MFA_ERROR_INVALID_ARGS), "status %d of a call that is %s", status,
           right ? "right" : "wrong");
    unsigned char *after = snapshot(&c, kind, &length);
    if (!right) {
        EXPECT(memcmp(before, after, length) == 0, "a call that failed wrote");
    } else {
        clear_outputs(&c, kind);
        call_by_descriptor(&c, kind);
        unsigned char *described = snapshot(&c, kind, &length);
        EXPECT(memcmp(after, described, length) == 0, "the descriptor call has other bits");
        free(described);
    }
    free(before), free(after);
    for (int i = 0; i < BUFFERS; ++i)
        mfa_destroy_buffer(mine[i]);
    mfa_destroy_buffer(c.foreign);
}

/* ------------------------------------------------------------------ quantising */

enum { MOST_TENSORS = 3 };

static int code_at(const unsigned char *codes, const params_t *p, int64_t i) {
    const int levels = levels_of(p), code = levels == 256 ? codes[i] : codes[i / 2] >> i % 2 * 4 & 15;
    return lowest_of(p) < 0 && code >= levels / 2 ? code - levels : code;
}

static float rounded(float x, const params_t *p) { return rintf(x / p->scale) + (float)p->zero_point; }

static int clamped(float code, const params_t *p) {
    const float lowest = (float)lowest_of(p);
    return (int)fminf(fmaxf(code, lowest), lowest + (float)levels_of(p) - 1);
}

/* Codes of one tensor, and how far they are from what it was. */
static void expect_codes(mfa_buffer_t input, mfa_buffer_t output, const params_t *p) {
    const float *from = mfa_buffer_contents(input);
    const unsigned char *codes = mfa_buffer_contents(output);
    const int64_t count = (int64_t)mfa_buffer_size(input) / 4;
    double sum = 0;
    for (int64_t i = 0; i < count; ++i) {
        const int found = code_at(codes, p, i), expected = clamped(rounded(from[i], p), p);
        EXPECT(found == expected, "%g has code %d, expected %d", from[i], found, expected);
        const double error = (double)from[i] - p->scale * (double)(found - p->zero_point);
        sum += error * error;
    }
    const double expected = count > 0 ? sqrt(sum / (double)count) : 0;
    const float estimate = mfa_estimate_quantization_error(input, output, p);
    EXPECT(estimate == (float)expected || fabs(estimate - expected) <= 1e-6 * expected, "%g is not %g", estimate,
           expected);
}

/* The same codes by descriptor, of an input of one row. */
static void expect_described(mfa_context_t context, mfa_buffer_t input, mfa_buffer_t output, params_t p) {
    const int64_t count = (int64_t)mfa_buffer_size(input) / 4, bytes = levels_of(&p) == 256 ? count : (count + 1) / 2;
    unsigned char *codes = malloc((size_t)bytes + 1);
    mfa_tensor_t from = one(MFA_PRECISION_FP32, NULL), to = one(format_of(&p), codes);
    mfa_tensor_t scales = one(MFA_PRECISION_FP32, &p.scale), zero_points = one(MFA_PRECISION_INT32, &p.zero_point);
    from.buffer = input;
    from.shape[3] = to.shape[3] = count;
    from.stride[3] = to.stride[3] = 1;
    mfa_quantization_t quantization = MFA_QUANTIZATION_INIT;
    quantization.scales = &scales, quantization.zero_points = &zero_points;
    mfa_quantize_desc_t desc = MFA_QUANTIZE_DESC_INIT;
    desc.flags = MFA_QUANTIZE_STATIC;
    desc.input = &from, desc.codes = &to, desc.quantization = &quantization;
    EXPECT(mfa_quantize(context, &desc) == MFA_SUCCESS, "the descriptor call fails where the flat one does not");
    EXPECT(bytes == 0 || memcmp(codes, mfa_buffer_contents(output), (size_t)bytes) == 0,
           "the descriptor call has other codes");
    free(codes);
}

static void fuzz_batch(reader_t *r) {
    mfa_context_t context = context_of(0, 3);
    mfa_buffer_t inputs[MOST_TENSORS], outputs_of[MOST_TENSORS], given[2 * MOST_TENSORS];
    params_t params[MOST_TENSORS];
    const size_t count = (size_t)read_below(r, MOST_TENSORS + 1);
    bool right = true;
    for (size_t i = 0; i < count; ++i) {
        params[i] = read_params(r);
        const int64_t elements = read_size(r, 0, 3000), shape = read_below(r, 16);
        int64_t bytes = levels_of(&params[i]) == 256 ? elements : (elements + 1) / 2;
        bytes += shape == 15 ? 3 : shape == 14 && bytes > 0 ? -1 : 0;
        const size_t input_bytes = (size_t)elements * 4 + (shape == 13 ? 1 : 0);
        EXPECT(mfa_create_buffer(context, input_bytes, &inputs[i]) == MFA_SUCCESS &&
                   mfa_create_buffer(context, (size_t)bytes, &outputs_of[i]) == MFA_SUCCESS,
               "no buffer");
        fill(r, MFA_PRECISION_FP32, inputs[i]);
        static const float specials[] = {NAN, INFINITY, -INFINITY, 3e38f, 0x1p-149f};
        const int special = read_below(r, 32);
        if (special < 5 && elements > 0)
            ((float *)mfa_buffer_contents(inputs[i]))[read_bits(r, 2) % (uint64_t)elements] = specials[special];
        memset(mfa_buffer_contents(outputs_of[i]), 0x5a, (size_t)bytes);
        right &=
            are_right(&params[i]) && shape != 13 && (shape != 14 || elements == 0) && (special > 2 || elements == 0);
    }
    memcpy(given, inputs, count * sizeof *given);
    memcpy(given + MOST_TENSORS, outputs_of, count * sizeof *given);
    if (count > 0 && read_chance(r, 8)) {
        const size_t at = (size_t)read_below(r, (int)count);
        given[MOST_TENSORS + at] = read_chance(r, 2) ? NULL : inputs[(size_t)read_below(r, (int)count)];
        right = false;
        for (size_t i = 0; i < count; ++i) /* what has no elements shares no memory */
            if (mfa_buffer_size(given[i]) == 0)
                given[MOST_TENSORS + at] = NULL;
    }
    forget_message();
    const mfa_status_t status = checked("quantize_tensor_batch",
                                        mfa_quantize_tensor_batch(context, given, given + MOST_TENSORS, params, count));
    EXPECT(status == (right ? MFA_SUCCESS : MFA_ERROR_INVALID_ARGS), "status %d of a batch that is %s", status,
           right ? "right" : "wrong");
    for (size_t i = 0; i < count; ++i) {
        const unsigned char *codes = mfa_buffer_contents(outputs_of[i]);
        if (right) {
            expect_codes(inputs[i], outputs_of[i], &params[i]);
            expect_described(context, inputs[i], outputs_of[i], params[i]);
        }
        for (size_t at = 0; !right && at < mfa_buffer_size(outputs_of[i]); ++at)
            EXPECT(codes[at] == 0x5a, "a batch that failed wrote");
        mfa_destroy_buffer(inputs[i]);
        mfa_destroy_buffer(outputs_of[i]);
    }
}

/* -------------------------------------------------------------------- questions */

static void fuzz_questions(reader_t *r) {
    static const float ends[] = {0, 1, -1, 12.7f, -12.8f, 1e30f, 3e38f, INFINITY, NAN, -3e38f};
    const params_t p = read_params(r);
    const float low = READ_PICK(r, ends), high = READ_PICK(r, ends);
    forget_message();
    const mfa_status_t status = checked("validate", mfa_validate_quantization_params(&p, low, high));
    bool right = are_right(&p) && isfinite(low) && isfinite(high) && low <= high;
    right = right && rounded(low, &p) == (float)clamped(rounded(low, &p), &p) &&
            rounded(high, &p) == (float)clamped(rounded(high, &p), &p);
    EXPECT(status == (right ? MFA_SUCCESS : MFA_ERROR_INVALID_ARGS), "status %d of parameters that are %s", status,
           right ? "right" : "wrong");
    mfa_shape_t shape = {(uint32_t)read_below(r, 10), {0}};
    for (int i = 0; i < 8; ++i)
        shape.dims[i] = read_chance(r, 8) ? read_integer(r) : read_size(r, 1, 64);
    const int32_t from = read_below(r, 10), to = read_below(r, 10);
    const size_t reduction = mfa_calculate_memory_reduction(&shape, from, to);
    EXPECT(reduction <= 8 && (from != to || reduction <= 1), "%zu times less", reduction);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    reader_t reader = {data, data + size}, *r = &reader;
    const int kind = read_below(r, KINDS + 2);
    if (kind < KINDS)
        fuzz_attention(r, kind);
    else if (kind == KINDS)
        fuzz_batch(r);
    else
        fuzz_questions(r);
    return 0;
}
