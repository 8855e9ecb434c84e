#include "problem.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const operand_names[OPERANDS] = {"query",     "key",           "value",        "out",   "logsumexp",
                                             "bool_mask", "additive_mask", "alibi_slopes", "sinks", "dout",
                                             "dquery",    "dkey",          "dvalue",       "dbias", "dsinks"};

int precision_size(int32_t precision) {
    return precision == MFA_PRECISION_FP32                                      ? 4
           : precision == MFA_PRECISION_FP16 || precision == MFA_PRECISION_BF16 ? 2
                                                                                : 1;
}

static bool is_output(int operand) { return ((FORWARD_WRITES | BACKWARD_WRITES) >> operand & 1) != 0; }

static const int32_t floating[] = {MFA_PRECISION_FP32, MFA_PRECISION_FP16, MFA_PRECISION_BF16};

/* ------------------------------------------------------------ elements */

static unsigned char *element(const operand_t *o, const int64_t at[4]) {
    int64_t offset = (int64_t)o->first;
    for (int axis = 0; axis < 4; ++axis)
        if (o->tensor.shape[axis] > 1)
            offset += at[axis] * o->tensor.stride[axis] * precision_size(o->tensor.precision);
    return o->memory + offset;
}

/* Steps through all elements, from {0}; false after the last. */
static bool next_element(const operand_t *o, int64_t at[4]) {
    for (int axis = 3; axis >= 0; --axis) {
        if (++at[axis] < o->tensor.shape[axis])
            return true;
        at[axis] = 0;
    }
    return false;
}

static int64_t element_count(const operand_t *o) {
    const int64_t *n = o->tensor.shape;
    return n[0] * n[1] * n[2] * n[3];
}

static double load(int32_t precision, const void *from) {
    if (precision == MFA_PRECISION_FP32) {
        float x;
        memcpy(&x, from, sizeof x);
        return x;
    }
    if (precision == MFA_PRECISION_FP16) {
        _Float16 x;
        memcpy(&x, from, sizeof x);
        return x;
    }
    if (precision == MFA_PRECISION_BOOL)
        return *(const unsigned char *)from != 0;
    uint16_t half;
    memcpy(&half, from, sizeof half);
    const uint32_t bits = (uint32_t)half << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static void store(int32_t precision, void *to, double value) {
    const float x = fabs(value) > 3e38 && isfinite(value) ? copysignf(3e38f, (float)copysign(1, value)) : (float)value;
    if (precision == MFA_PRECISION_FP32) {
        memcpy(to, &x, sizeof x);
    } else if (precision == MFA_PRECISION_FP16) {
        const _Float16 half = isfinite(x) && fabsf(x) > 65504 ? (_Float16)copysignf(65504, x) : (_Float16)x;
        memcpy(to, &half, sizeof half);
    } else if (precision == MFA_PRECISION_BF16) {
        uint32_t bits;
        memcpy(&bits, &x, sizeof bits);
        const uint16_t half = (uint16_t)(bits >> 16 | (isnan(x) ? 1 : 0));
        memcpy(to, &half, sizeof half);
    } else {
        *(unsigned char *)to = value != 0;
    }
}

double operand_at(const operand_t *o, int64_t b, int64_t h, int64_t i, int64_t j) {
    const int64_t *n = o->tensor.shape;
    const int64_t at[4] = {n[0] > 1 ? b : 0, n[1] > 1 ? h : 0, n[2] > 1 ? i : 0, n[3] > 1 ? j : 0};
    return load(o->tensor.precision, element(o, at));
}

/* -------------------------------------------------------------- layout */

/* Axes in any order, apart by more than they need, backwards, and, for inputs, repeated. */
static void read_layout(reader_t *r, int operand, operand_t *o) {
    mfa_tensor_t *t = &o->tensor;
    const int size = precision_size(t->precision);
    int order[4] = {3, 2, 1, 0};
    const int permutation = read_below(r, 24), gap = read_below(r, 16), backwards = read_below(r, 64);
    const int repeated = is_output(operand) ? 0 : read_below(r, 256);
    for (int i = 3, left = permutation; i > 0; left /= i + 1, --i) {
        const int with = i - left % (i + 1), swapped = order[i];
        order[i] = order[with];
        order[with] = swapped;
    }
    int64_t low = 0, high = 0, reach = 1;
    for (int i = 0; i < 4; ++i) {
        const int axis = order[i];
        int64_t stride = reach + (gap >> i & 1);
        if (backwards & 1 << axis && backwards >= 32)
            stride = -stride;
        if (repeated & 1 << axis && repeated >= 240)
            stride = 0;
        t->stride[axis] = stride;
        if (t->shape[axis] > 1) {
            *(stride < 0 ? &low : &high) += stride * (t->shape[axis] - 1);
            reach = high - low + 1;
        }
    }
    for (int axis = 0; axis < 4; ++axis)
        if (t->shape[axis] <= 1 && backwards == 63)
            t->stride[axis] = INT64_MIN; /* the stride of a single element is never followed */
    const int64_t before = read_chance(r, 8) ? 3 : 0;
    o->in_buffer = read_chance(r, 4);
    o->first = (size_t)((before - low) * size);
    o->bytes = element_count(o) > 0 ? (size_t)((before - low + high + 1) * size) : 0;
    o->memory = malloc(o->bytes > 0 ? o->bytes : 1);
    o->before = malloc(o->bytes > 0 ? o->bytes : 1);
    memset(o->memory, 0xff, o->bytes);
    t->data = o->memory + (o->bytes > 0 ? o->first : 0);
}

/* -------------------------------------------------------------- values */

static double one_value(int kind, uint64_t *seed) {
    const double x = next_uniform(seed);
    switch (kind) {
    case 1:
        return round(2 * x);
    case 2:
        return 4 * x;
    case 3:
        return x * 0x1p-127; /* around the least normal float32 */
    case 4:
        return 100 * x;
    case 5:
        return ldexp(x, (int)(next_random(seed) % 40) - 20);
    case 6:
        return 0;
    default:
        return x;
    }
}

static void read_values(reader_t *r, int operand, operand_t *o) {
    static const double specials[] = {INFINITY, -INFINITY, NAN, 3e38, -3e38, 0x1p-149, -0.0, 65504};
    const int kind = read_below(r, 8);
    uint64_t seed = read_bits(r, 2);
    const bool is_special = read_chance(r, 8);
    const int64_t count = element_count(o);
    if (is_output(operand) || count == 0)
        return;
    int64_t at[4] = {0};
    do {
        double x = one_value(kind, &seed);
        if (operand == BOOL_MASK)
            x = next_uniform(&seed) < (kind < 4 ? 0.5 : kind - 5);
        if (operand == ADDITIVE_MASK && next_uniform(&seed) < (kind < 4 ? -1 : kind / 4.0 - 1.25))
            x = -INFINITY;
        if (operand == SINKS && kind == 7)
            x = -INFINITY;
        store(o->tensor.precision, element(o, at), x);
    } while (next_element(o, at));
    for (int i = is_special ? 1 + read_below(r, 3) : 0; i > 0; --i) {
        const double special = READ_PICK(r, specials);
        const int64_t chosen = (int64_t)(read_bits(r, 3) % (uint64_t)count);
        int64_t left = chosen, index[4];
        for (int axis = 3; axis >= 0; left /= o->tensor.shape[axis--])
            index[axis] = left % o->tensor.shape[axis];
        if (operand != BOOL_MASK)
            store(o->tensor.precision, element(o, index), special);
    }
}

/* ------------------------------------------------------------- problem */

static void add(reader_t *r, problem_t *p, int operand, int32_t precision, const int64_t shape[4]) {
    operand_t *o = &p->operands[operand];
    o->present = true;
    o->tensor = (mfa_tensor_t)MFA_TENSOR_INIT;
    o->tensor.precision = precision;
    memcpy(o->tensor.shape, shape, sizeof o->tensor.shape);
    read_layout(r, operand, o);
    read_values(r, operand, o);
    *problem_slot(p, operand) = &o->tensor;
}

#define SHAPE(...) ((const int64_t[4]){__VA_ARGS__})

static void add_mask(reader_t *r, problem_t *p, int operand, int32_t precision, const int64_t full[4]) {
    const int single = read_below(r, 16);
    int64_t shape[4];
    for (int axis = 0; axis < 4; ++axis)
        shape[axis] = single & 1 << axis ? 1 : full[axis];
    add(r, p, operand, precision, shape);
}

static float read_scale(reader_t *r) {
    static const float scales[] = {0, 1, 0.125f, -0.5f, 3, 1e-30f, 1e-45f, 30};
    return READ_PICK(r, scales);
}

static int64_t read_window(reader_t *r, int64_t keys) {
    const int kind = read_below(r, 4);
    return kind < 2 ? -1 : kind == 2 ? read_size(r, 0, keys) : INT64_MAX;
}

static void read_scalars(reader_t *r, mfa_attention_desc_t *d, int64_t keys) {
    static const float softcaps[] = {0, 0, 0, 1, 30, 1e-3f, 1e30f, 0x1p-140f};
    static const float probabilities[] = {0, 0, 0, 0, 0.1f, 0.5f, 0.999f, 0x1p-18f};
    static const int32_t weights[] = {MFA_PRECISION_DEFAULT, MFA_PRECISION_FP16, MFA_PRECISION_BF16,
                                      MFA_PRECISION_FP32};
    d->flags = (uint32_t)read_below(r, 4);
    d->softmax_scale = read_scale(r);
    d->softcap = READ_PICK(r, softcaps);
    d->alignment = MFA_ALIGN_TOP_LEFT + read_below(r, 2);
    d->intermediate_precision = READ_PICK(r, weights);
    d->window_left = read_window(r, keys);
    d->window_right = read_window(r, keys);
    d->dropout_p = READ_PICK(r, probabilities);
    if (d->dropout_p > 0) {
        d->dropout_seed = read_bits(r, 8);
        d->dropout_offset = read_bits(r, 8);
    }
}

void problem_read(reader_t *r, int64_t work, problem_t *p) {
    *p = (problem_t){.forward = MFA_ATTENTION_DESC_INIT, .backward = MFA_ATTENTION_BACKWARD_DESC_INIT};
    mfa_attention_desc_t *d = &p->forward;
    const int features = read_below(r, 256);
    const int32_t precision = READ_PICK(r, floating);
    const int64_t batch = read_chance(r, 32) ? 0 : 1 + read_below(r, 2);
    const int64_t kv_heads = 1 + read_below(r, 2), heads = kv_heads * (1 + read_below(r, 4));
    const int64_t dim = read_size(r, 1, 130), value_dim = read_chance(r, 4) ? read_size(r, 1, 130) : dim;
    int64_t rows = read_size(r, 0, 70), keys = read_size(r, 0, 1200);
    while (batch * heads * rows * keys * (dim + value_dim) > work)
        *(rows > keys ? &rows : &keys) /= 2;
    read_scalars(r, d, keys);
    add(r, p, QUERY, precision, SHAPE(batch, heads, rows, dim));
    add(r, p, KEY, precision, SHAPE(batch, kv_heads, keys, dim));
    add(r, p, VALUE, precision, SHAPE(batch, kv_heads, keys, value_dim));
    add(r, p, OUT, READ_PICK(r, floating), SHAPE(batch, heads, rows, value_dim));
    p->has_backward = features & 1;
    if (p->has_backward || features & 2)
        add(r, p, LOGSUMEXP, MFA_PRECISION_FP32, SHAPE(batch, heads, rows, 1));
    if (features & 4)
        add_mask(r, p, BOOL_MASK, MFA_PRECISION_BOOL, SHAPE(batch, heads, rows, keys));
    if (features & 8)
        add_mask(r, p, ADDITIVE_MASK, READ_PICK(r, floating), SHAPE(batch, heads, rows, keys));
    if (features & 16)
        add(r, p, ALIBI_SLOPES, MFA_PRECISION_FP32, SHAPE(read_chance(r, 2) ? batch : 1, heads, 1, 1));
    if (features & 32)
        add(r, p, SINKS, MFA_PRECISION_FP32, SHAPE(1, heads, 1, 1));
    if (!p->has_backward)
        return;
    p->backward.forward = d;
    add(r, p, DOUT, READ_PICK(r, floating), p->operands[OUT].tensor.shape);
    const int unwanted = read_below(r, 32);
    for (int i = 0; i < 3; ++i)
        if (!(unwanted & 1 << i))
            add(r, p, DQUERY + i, READ_PICK(r, floating), p->operands[QUERY + i].tensor.shape);
    if (features & 8 && !(unwanted & 8))
        add(r, p, DBIAS, READ_PICK(r, floating), p->operands[ADDITIVE_MASK].tensor.shape);
    if (features & 32 && !(unwanted & 16))
        add(r, p, DSINKS, MFA_PRECISION_FP32, p->operands[SINKS].tensor.shape);
}

void problem_free(problem_t *p) {
    for (int i = 0; i < OPERANDS; ++i) {
        free(p->operands[i].memory);
        free(p->operands[i].before);
    }
}

const mfa_tensor_t **problem_slot(problem_t *p, int operand) {
    mfa_attention_desc_t *f = &p->forward;
    mfa_attention_backward_desc_t *b = &p->backward;
    const mfa_tensor_t **const slots[OPERANDS] = {
        &f->query, &f->key,  &f->value,  &f->out,  &f->logsumexp, &f->bool_mask, &f->additive_mask, &f->alibi_slopes,
        &f->sinks, &b->dout, &b->dquery, &b->dkey, &b->dvalue,    &b->dbias,     &b->dsinks};
    return slots[operand];
}

void problem_bind(problem_t *p, mfa_context_t context) {
    for (int i = 0; i < OPERANDS; ++i) {
        operand_t *o = &p->operands[i];
        if (!o->present || !o->in_buffer)
            continue;
        EXPECT(mfa_buffer_from_ptr(context, o->memory, o->bytes, &o->tensor.buffer) == MFA_SUCCESS, "no buffer");
        o->tensor.data = NULL;
        o->tensor.byte_offset = o->bytes > 0 ? o->first : 0;
    }
}

void problem_unbind(problem_t *p) {
    for (int i = 0; i < OPERANDS; ++i) {
        operand_t *o = &p->operands[i];
        if (o->present && o->in_buffer)
            mfa_destroy_buffer(o->tensor.buffer);
        o->tensor.buffer = NULL;
    }
}

void problem_before(problem_t *p, unsigned written) {
    for (int i = 0; i < OPERANDS; ++i) {
        const operand_t *o = &p->operands[i];
        if (!o->present || o->bytes == 0)
            continue;
        if (written >> i & 1)
            memset(o->memory, 0xff, o->bytes);
        memcpy(o->before, o->memory, o->bytes);
    }
}

void problem_expect_unchanged(const problem_t *p, unsigned written, const char *call) {
    for (int i = 0; i < OPERANDS; ++i) {
        const operand_t *o = &p->operands[i];
        if (!o->present || o->bytes == 0)
            continue;
        unsigned char *now = malloc(o->bytes);
        memcpy(now, o->memory, o->bytes);
        if (written >> i & 1) {
            int64_t at[4] = {0};
            do {
                const ptrdiff_t offset = element(o, at) - o->memory;
                memcpy(now + offset, o->before + offset, (size_t)precision_size(o->tensor.precision));
            } while (next_element(o, at));
        }
        EXPECT(memcmp(now, o->before, o->bytes) == 0, "%s wrote to memory of %s that is not its to write", call,
               operand_names[i]);
        free(now);
    }
}

unsigned char *problem_snapshot(const problem_t *p, int operand) {
    const operand_t *o = &p->operands[operand];
    unsigned char *copy = malloc(o->bytes > 0 ? o->bytes : 1);
    if (o->bytes > 0)
        memcpy(copy, o->memory, o->bytes);
    return copy;
}

void problem_print(const problem_t *p) {
    for (int i = 0; i < OPERANDS; ++i) {
        const mfa_tensor_t *t = &p->operands[i].tensor;
        if (p->operands[i].present)
            fprintf(stderr,
                    "%s: precision %d, shape %" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 ", stride %" PRId64
                    " %" PRId64 " %" PRId64 " %" PRId64 "%s\n",
                    operand_names[i], t->precision, t->shape[0], t->shape[1], t->shape[2], t->shape[3], t->stride[0],
                    t->stride[1], t->stride[2], t->stride[3], p->operands[i].in_buffer ? ", in a buffer" : "");
    }
    const mfa_attention_desc_t *d = &p->forward;
    fprintf(stderr,
            "flags %u, softmax_scale %g, softcap %g, alignment %d, intermediate_precision %d, window %" PRId64
            " %" PRId64 ", dropout %g %" PRIu64 " %" PRIu64 "\n",
            d->flags, d->softmax_scale, d->softcap, d->alignment, d->intermediate_precision, d->window_left,
            d->window_right, d->dropout_p, d->dropout_seed, d->dropout_offset);
}
