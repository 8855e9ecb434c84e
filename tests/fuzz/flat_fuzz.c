/*
 * The flat calls: any arguments over buffers that may be too small, missing, shared or another context's. Which are
 * right is decided here once more; what is right has the bits of the descriptor call that it stands for.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "problem.h"

/* As the backward call takes them; the forward calls take some. */
enum { D_OUT, Q, K, V, O, LSE, DQ, DK, DV, BUFFERS };

typedef struct {
    mfa_context_t context;
    mfa_buffer_t buffers[BUFFERS], foreign;
    uint32_t batch, rows, keys, heads;
    uint16_t dim;
    float scale;
    int32_t input, intermediate, output;
    bool causal, transposed[4]; /* q, k, v, out */
} flat_t;

enum { FORWARD, FORWARD_WITH_LSE, BACKWARD };

static const unsigned used[] = {1 << Q | 1 << K | 1 << V | 1 << O, 1 << Q | 1 << K | 1 << V | 1 << O | 1 << LSE,
                                (1 << BUFFERS) - 1};
static const unsigned outputs[] = {1 << O, 1 << O | 1 << LSE, 1 << DQ | 1 << DK | 1 << DV};

static bool is_of_keys(int i) { return i == K || i == V || i == DK || i == DV; }

static int32_t precision_of(const flat_t *f, int i) {
    return i == LSE ? MFA_PRECISION_FP32 : i == Q || i == K || i == V ? f->input : f->output;
}

static __int128 bytes_of(const flat_t *f, int i) {
    const __int128 rows = (__int128)f->batch * f->heads * (is_of_keys(i) ? f->keys : f->rows);
    return rows * (i == LSE ? 1 : f->dim) * precision_size(precision_of(f, i));
}

static mfa_status_t call(const flat_t *f, int kind) {
    const mfa_buffer_t *b = f->buffers;
    const bool *t = f->transposed;
    forget_message();
    if (kind == FORWARD)
        return checked("forward", mfa_attention_forward(f->context, b[Q], b[K], b[V], b[O], f->batch, f->rows, f->keys,
                                                        f->heads, f->dim, f->scale, f->causal, f->input,
                                                        f->intermediate, f->output, t[0], t[1], t[2], t[3]));
    if (kind == FORWARD_WITH_LSE)
        return checked("forward_with_lse",
                       mfa_attention_forward_with_lse(f->context, b[Q], b[K], b[V], b[O], b[LSE], f->batch, f->rows,
                                                      f->keys, f->heads, f->dim, f->scale, f->causal, f->input,
                                                      f->intermediate, f->output, t[0], t[1], t[2], t[3]));
    return checked("backward",
                   mfa_attention_backward(f->context, b[D_OUT], b[Q], b[K], b[V], b[O], b[LSE], b[DQ], b[DK], b[DV],
                                          f->batch, f->rows, f->keys, f->heads, f->dim, f->scale, f->causal, f->input,
                                          f->intermediate, f->output, t[0], t[1], t[2], t[3]));
}

static bool is_float(int32_t precision) { return precision >= MFA_PRECISION_FP16 && precision <= MFA_PRECISION_FP32; }

/* Whether the call is right. A size of 0 needs no memory. */
static bool is_right(const flat_t *f, int kind) {
    if (f->context == NULL || !is_float(f->input) || !is_float(f->intermediate) || !is_float(f->output) ||
        f->heads == 0 || f->dim == 0 || !isfinite(f->scale))
        return false;
    for (int i = 0; i < BUFFERS; ++i) {
        if (!(used[kind] >> i & 1))
            continue;
        const mfa_buffer_t buffer = f->buffers[i];
        if (buffer == NULL || buffer == f->foreign || bytes_of(f, i) > (__int128)mfa_buffer_size(buffer))
            return false;
        for (int other = 0; other < BUFFERS; ++other)
            if (other != i && (outputs[kind] >> i & 1) && (used[kind] >> other & 1) && buffer == f->buffers[other] &&
                bytes_of(f, i) > 0 && bytes_of(f, other) > 0)
                return false;
    }
    return true;
}

/* The same call by descriptor, for comparing. */
static mfa_tensor_t describe(const flat_t *f, int i, bool transposed) {
    mfa_tensor_t t = MFA_TENSOR_INIT;
    const int64_t seq = is_of_keys(i) ? f->keys : f->rows, heads = f->heads, dim = i == LSE ? 1 : f->dim;
    t.precision = precision_of(f, i);
    t.buffer = f->buffers[i];
    const int64_t shape[4] = {f->batch, heads, seq, dim};
    const int64_t plain[4] = {seq * heads * dim, dim, heads * dim, 1},
                  turned[4] = {seq * heads * dim, dim * seq, 1, seq};
    memcpy(t.shape, shape, sizeof shape);
    memcpy(t.stride, transposed || i == LSE ? turned : plain, sizeof plain);
    return t;
}

static void call_by_descriptor(const flat_t *f, int kind) {
    const bool *turned = f->transposed;
    const bool turns[BUFFERS] = {turned[3], turned[0], turned[1], turned[2], turned[3],
                                 true,      turned[0], turned[1], turned[2]};
    mfa_tensor_t t[BUFFERS];
    for (int i = 0; i < BUFFERS; ++i)
        t[i] = describe(f, i, turns[i]);
    mfa_attention_desc_t forward = MFA_ATTENTION_DESC_INIT;
    forward.flags = MFA_ATTENTION_LITERAL_SCALE | (f->causal ? MFA_ATTENTION_CAUSAL : 0);
    forward.query = &t[Q], forward.key = &t[K], forward.value = &t[V], forward.out = &t[O];
    forward.logsumexp = kind == FORWARD ? NULL : &t[LSE];
    forward.softmax_scale = f->scale;
    forward.alignment = MFA_ALIGN_BOTTOM_RIGHT;
    forward.intermediate_precision = f->intermediate;
    mfa_attention_backward_desc_t backward = MFA_ATTENTION_BACKWARD_DESC_INIT;
    backward.forward = &forward;
    backward.dout = &t[D_OUT], backward.dquery = &t[DQ], backward.dkey = &t[DK], backward.dvalue = &t[DV];
    EXPECT((kind == BACKWARD ? mfa_attention_backward_desc(f->context, &backward)
                             : mfa_attention_forward_desc(f->context, &forward)) == MFA_SUCCESS,
           "the descriptor call fails where the flat one does not");
}

/* One without elements may be in any buffer, even an operand's. */
static bool is_written(const flat_t *f, int kind, int i) {
    return (outputs[kind] >> i & 1) && bytes_of(f, i) > 0 && mfa_buffer_size(f->buffers[i]) > 0;
}

/* What the outputs' buffers hold, one after the other. */
static unsigned char *snapshot(const flat_t *f, int kind, size_t *size) {
    *size = 0;
    unsigned char *copy = malloc(1);
    for (int i = 0; i < BUFFERS; ++i) {
        const size_t more = mfa_buffer_size(f->buffers[i]);
        if (!is_written(f, kind, i))
            continue;
        copy = realloc(copy, *size + more);
        memcpy(copy + *size, mfa_buffer_contents(f->buffers[i]), more);
        *size += more;
    }
    return copy;
}

static void clear_outputs(const flat_t *f, int kind) {
    for (int i = 0; i < BUFFERS; ++i)
        if (is_written(f, kind, i))
            memset(mfa_buffer_contents(f->buffers[i]), 0x5a, mfa_buffer_size(f->buffers[i]));
}

static void read_arguments(reader_t *r, flat_t *f) {
    static const int32_t precisions[] = {2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 3, 5, -1, 77};
    const int flags = read_below(r, 32);
    f->causal = flags & 1;
    for (int i = 0; i < 4; ++i)
        f->transposed[i] = flags >> (i + 1) & 1;
    f->input = READ_PICK(r, precisions);
    f->intermediate = READ_PICK(r, precisions);
    f->output = READ_PICK(r, precisions);
    f->batch = (uint32_t)(1 + read_below(r, 2));
    f->heads = (uint32_t)(1 + read_below(r, 3));
    f->dim = (uint16_t)read_size(r, 1, 66);
    f->rows = (uint32_t)read_size(r, 0, 40);
    f->keys = (uint32_t)read_size(r, 0, 70);
    static const float scales[] = {0.25f, 0, 1, -2, NAN, INFINITY, 1e-40f, 3e38f};
    f->scale = READ_PICK(r, scales);
}

/* Sizes that its buffers were not made for. */
static void read_wrong_sizes(reader_t *r, flat_t *f) {
    uint32_t *const sizes[] = {&f->batch, &f->rows, &f->keys, &f->heads};
    for (int changes = read_below(r, 3); changes > 0; --changes) {
        const int which = read_below(r, 8);
        if (which < 4)
            *sizes[which] = (uint32_t)read_integer(r);
        else
            f->dim = (uint16_t)read_integer(r);
    }
}

static void fill(reader_t *r, const flat_t *f, int i, mfa_buffer_t buffer) {
    uint64_t seed = read_bits(r, 1);
    const size_t count = mfa_buffer_size(buffer) / (size_t)precision_size(precision_of(f, i));
    for (size_t at = 0; at < count; ++at) {
        const float x = (float)next_uniform(&seed);
        const _Float16 half = (_Float16)x;
        uint32_t bits;
        memcpy(&bits, &x, sizeof bits);
        const uint16_t bfloat = (uint16_t)(bits >> 16);
        char *to = (char *)mfa_buffer_contents(buffer) + at * (size_t)precision_size(precision_of(f, i));
        if (precision_of(f, i) == MFA_PRECISION_FP32)
            memcpy(to, &x, sizeof x);
        else if (precision_size(precision_of(f, i)) == 2)
            memcpy(to, precision_of(f, i) == MFA_PRECISION_FP16 ? (const void *)&half : (const void *)&bfloat, 2);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    reader_t reader = {data, data + size}, *r = &reader;
    flat_t f = {.context = context_of(0, 1)};
    const int kind = read_below(r, 3);
    mfa_buffer_t mine[BUFFERS];
    void *memory[BUFFERS] = {NULL};
    read_arguments(r, &f);
    for (int i = 0; i < BUFFERS; ++i) {
        const int shape = read_below(r, 16);
        size_t bytes = (size_t)bytes_of(&f, i);
        bytes = shape == 15 ? bytes / 2 : shape == 14 && bytes > 0 ? bytes - 1 : shape == 13 ? bytes + 7 : bytes;
        memory[i] = shape < 4 ? malloc(bytes > 0 ? bytes : 1) : NULL;
        EXPECT((memory[i] != NULL ? mfa_buffer_from_ptr(f.context, memory[i], bytes, &mine[i])
                                  : mfa_create_buffer(f.context, bytes, &mine[i])) == MFA_SUCCESS,
               "no buffer");
        fill(r, &f, i, mine[i]);
    }
    EXPECT(mfa_create_buffer(context_of(0, 3), 4096, &f.foreign) == MFA_SUCCESS, "no buffer");
    memcpy(f.buffers, mine, sizeof mine);
    for (int changes = read_below(r, 3); changes > 0; --changes) {
        const int which = read_below(r, BUFFERS), with = read_below(r, BUFFERS + 2);
        f.buffers[which] = with < BUFFERS ? mine[with] : with == BUFFERS ? f.foreign : NULL;
    }
    read_wrong_sizes(r, &f);
    if (read_chance(r, 32))
        f.context = NULL;

    const bool right = is_right(&f, kind) && !planted("refuse what is right");
    clear_outputs(&f, kind);
    size_t length;
    unsigned char *before = snapshot(&f, kind, &length);
    if (right && kind == BACKWARD && is_right(&f, FORWARD_WITH_LSE))
        call_by_descriptor(&f, FORWARD_WITH_LSE);
    const mfa_status_t status = call(&f, kind);
    EXPECT(status == (right ? MFA_SUCCESS : MFA_ERROR_INVALID_ARGS), "status %d of a call that is %s", status,
           right ? "right" : "wrong");
    unsigned char *after = snapshot(&f, kind, &length);
    if (!right) {
        EXPECT(memcmp(before, after, length) == 0, "a call that failed wrote");
    } else {
        clear_outputs(&f, kind);
        call_by_descriptor(&f, kind);
        unsigned char *described = snapshot(&f, kind, &length);
        EXPECT(memcmp(after, described, length) == 0, "the descriptor call has other bits");
        free(described);
    }
    free(before), free(after);
    for (int i = 0; i < BUFFERS; ++i) {
        mfa_destroy_buffer(mine[i]);
        free(memory[i]);
    }
    mfa_destroy_buffer(f.foreign);
    return 0;
}
