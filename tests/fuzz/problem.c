#include "problem.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const operand_names[OPERANDS] = {"query",
                                             "key",
                                             "value",
                                             "out",
                                             "logsumexp",
                                             "bool_mask",
                                             "additive_mask",
                                             "alibi_slopes",
                                             "sinks",
                                             "dout",
                                             "dlogsumexp",
                                             "dquery",
                                             "dkey",
                                             "dvalue",
                                             "dbias",
                                             "dsinks",
                                             "query_starts",
                                             "key_starts",
                                             "query_lengths",
                                             "key_lengths",
                                             "left_padding",
                                             "key_batches",
                                             "page_table",
                                             "kv_num_blocks",
                                             "kv_indices",
                                             "full_kv_num_blocks",
                                             "full_kv_indices",
                                             "block_mask",
                                             "key scales",
                                             "key zeros",
                                             "key mean",
                                             "value scales",
                                             "value zeros"};

int precision_size(int32_t precision) {
    return precision == MFA_PRECISION_FP32 || precision == MFA_PRECISION_INT32  ? 4
           : precision == MFA_PRECISION_FP16 || precision == MFA_PRECISION_BF16 ? 2
                                                                                : 1;
}

static bool is_output(int operand) { return ((FORWARD_WRITES | BACKWARD_WRITES) >> operand & 1) != 0; }

static const int32_t floating[] = {MFA_PRECISION_FP32, MFA_PRECISION_FP16, MFA_PRECISION_BF16};

static bool is_packed(int32_t precision) { return precision == MFA_PRECISION_INT4 || precision == MFA_PRECISION_UINT4; }

/* ------------------------------------------------------------ elements */

static unsigned char *element(const operand_t *o, const int64_t at[4]) {
    int64_t offset = 0;
    for (int axis = 0; axis < 4; ++axis)
        if (o->tensor.shape[axis] > 1)
            offset += at[axis] * o->tensor.stride[axis] * precision_size(o->tensor.precision);
    if (is_packed(o->tensor.precision)) /* two in a byte, of which the second is no further */
        offset = (offset - at[3] % 2) / 2;
    return o->memory + (int64_t)o->first + offset;
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
    if (precision == MFA_PRECISION_INT32) {
        int32_t x;
        memcpy(&x, from, sizeof x);
        return x;
    }
    if (precision == MFA_PRECISION_BOOL)
        return *(const unsigned char *)from != 0;
    if (precision == MFA_PRECISION_INT8)
        return *(const int8_t *)from;
    if (precision == MFA_PRECISION_UINT8)
        return *(const uint8_t *)from;
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
    const unsigned char *from = element(o, at);
    if (!is_packed(o->tensor.precision))
        return load(o->tensor.precision, from);
    const int code = *from >> at[3] % 2 * 4 & 15;
    return o->tensor.precision == MFA_PRECISION_INT4 && code > 7 ? code - 16 : code;
}

/* -------------------------------------------------------------- layout */

/* Axes in any order, apart by more than they need, backwards, and, for inputs, repeated. */
static void read_layout(reader_t *r, int operand, operand_t *o) {
    mfa_tensor_t *t = &o->tensor;
    const int64_t columns = t->shape[3];
    const bool packed = is_packed(t->precision); /* rows are laid out as bytes */
    const int size = precision_size(t->precision);
    int order[4] = {3, 2, 1, 0};
    const int permutation = read_below(r, 24), gap = read_below(r, 16) & (packed ? 14 : 15);
    const int backwards = read_below(r, 64) & (packed ? ~8 : ~0);
    const int repeated = (is_output(operand) || operand > DSINKS ? 0 : read_below(r, 256)) & (packed ? ~8 : ~0);
    if (packed)
        t->shape[3] = (columns + 1) / 2;
    for (int i = 3, left = permutation; i > packed; left /= i + 1, --i) {
        const int with = i - left % (i + 1 - packed), swapped = order[i];
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
    for (int axis = 0; axis < 3 && packed; ++axis)
        t->stride[axis] *= 2;
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
    t->shape[3] = columns;
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

/* Whether logsumexp has a gradient. */
static bool read_backward(reader_t *r, problem_t *p, int features) {
    p->backward.forward = &p->forward;
    add(r, p, DOUT, READ_PICK(r, floating), p->operands[OUT].tensor.shape);
    const int choices = read_below(r, 256), unwanted = choices % 32;
    for (int i = 0; i < 3; ++i)
        if (!(unwanted & 1 << i))
            add(r, p, DQUERY + i, READ_PICK(r, floating), p->operands[QUERY + i].tensor.shape);
    if (features & 8 && !(unwanted & 8))
        add(r, p, DBIAS, READ_PICK(r, floating), p->operands[ADDITIVE_MASK].tensor.shape);
    if (features & 32 && !(unwanted & 16))
        add(r, p, DSINKS, MFA_PRECISION_FP32, p->operands[SINKS].tensor.shape);
    return choices >= 128;
}

/* ------------------------------------------------- sequences and blocks */

static void set_entry(operand_t *o, int64_t b, int64_t h, int64_t i, int64_t j, int32_t value) {
    memcpy(element(o, SHAPE(b, h, i, j)), &value, sizeof value);
}

/* A list whose entries are what no length reaches until they are set. */
static operand_t *add_list(reader_t *r, problem_t *p, int operand, const int64_t shape[4]) {
    operand_t *o = &p->operands[operand];
    o->present = true;
    o->tensor = (mfa_tensor_t)MFA_TENSOR_INIT;
    o->tensor.precision = MFA_PRECISION_INT32;
    memcpy(o->tensor.shape, shape, sizeof o->tensor.shape);
    read_layout(r, operand, o);
    int64_t at[4] = {0};
    if (element_count(o) > 0)
        do
            set_entry(o, at[0], at[1], at[2], at[3], INT32_MIN);
        while (next_element(o, at));
    *problem_slot(p, operand) = &o->tensor;
    return o;
}

/* Cuts rows of one batch into those of the sequences. */
static void read_starts(reader_t *r, problem_t *p, int operand, int64_t rows) {
    operand_t *o = add_list(r, p, operand, SHAPE(1, 1, 1, p->sequence_count + 1));
    int64_t start = 0;
    for (int64_t b = 0; b <= p->sequence_count; ++b) {
        set_entry(o, 0, 0, 0, b, (int32_t)start);
        sequence_t *s = &p->sequence[b];
        const int64_t count = b < p->sequence_count ? read_size(r, 0, rows - start) : 0;
        if (b < p->sequence_count && operand == QUERY_STARTS)
            s->query_batch = 0, s->query_row = start, s->queries = count;
        else if (b < p->sequence_count)
            s->key_batch = 0, s->key_row = start, s->keys = count;
        start += count;
    }
}

static void read_lengths(reader_t *r, problem_t *p, int which) {
    const int64_t *shape = SHAPE(1, 1, 1, p->sequence_count);
    operand_t *queries = which & 1 ? add_list(r, p, QUERY_LENGTHS, shape) : NULL;
    operand_t *keys = which & 2 ? add_list(r, p, KEY_LENGTHS, shape) : NULL;
    operand_t *padding = which & 4 ? add_list(r, p, LEFT_PADDING, shape) : NULL;
    for (int64_t b = 0; b < p->sequence_count; ++b) {
        sequence_t *s = &p->sequence[b];
        if (queries != NULL)
            set_entry(queries, 0, 0, 0, b, (int32_t)(s->queries = read_size(r, 0, s->queries)));
        if (keys != NULL)
            set_entry(keys, 0, 0, 0, b, (int32_t)(s->keys = read_size(r, 0, s->keys)));
        const int64_t skipped = padding != NULL ? read_size(r, 0, s->keys) : 0;
        if (padding != NULL)
            set_entry(padding, 0, 0, 0, b, (int32_t)skipped);
        s->key_row += skipped;
        s->keys -= skipped;
    }
}

/* Batches of key and value as pages, or in another order; any twice if nothing is written to them. */
static void read_places(reader_t *r, problem_t *p, bool in_pages, int64_t pages) {
    const int64_t batch = p->operands[KEY].tensor.shape[0], rows = p->operands[KEY].tensor.shape[2];
    const int shift = read_below(r, 2);
    operand_t *o = in_pages ? add_list(r, p, PAGE_TABLE, SHAPE(1, 1, batch, pages))
                            : add_list(r, p, KEY_BATCHES, SHAPE(1, 1, 1, batch));
    for (int64_t b = 0; b < batch; ++b)
        for (int64_t n = 0; n < (in_pages ? pages : 1); ++n) {
            const int64_t place = p->has_backward ? (b + shift) % batch : read_below(r, (int)batch);
            p->sequence[b].pages[n] = p->sequence[b].key_batch = place;
            p->sequence[b].keys = in_pages ? pages * rows : rows;
            set_entry(o, 0, 0, in_pages ? b : 0, in_pages ? n : b, (int32_t)place);
        }
}

static void read_blocks(reader_t *r, problem_t *p, int64_t rows, int64_t keys) {
    mfa_blocks_t *blocks = &p->blocks;
    blocks->block_rows = 1 + read_below(r, 40);
    blocks->block_keys = 1 + read_below(r, 130);
    p->lines = (rows + blocks->block_rows - 1) / blocks->block_rows;
    p->columns = (keys + blocks->block_keys - 1) / blocks->block_keys;
    const int form = read_below(r, 4), single = read_below(r, 4), density = read_below(r, 4);
    uint64_t seed = read_bits(r, 2);
    const int64_t heads = p->operands[QUERY].tensor.shape[1];
    const int64_t n[2] = {single & 1 ? 1 : p->sequence_count, single & 2 ? 1 : heads};
    operand_t *mask = NULL, *counts[2] = {NULL, NULL}, *indices[2] = {NULL, NULL};
    if (form == 0) {
        mask = &p->operands[BLOCK_MASK];
        add(r, p, BLOCK_MASK, MFA_PRECISION_BOOL, SHAPE(n[0], n[1], p->lines, p->columns));
    }
    for (int i = 0; i < 2; ++i)
        if (form & 1 << i) {
            counts[i] = add_list(r, p, KV_NUM_BLOCKS + 2 * i, SHAPE(n[0], n[1], p->lines, 1));
            indices[i] = add_list(r, p, KV_INDICES + 2 * i, SHAPE(n[0], n[1], p->lines, p->columns + read_below(r, 2)));
        }
    p->forward.blocks = blocks;
    p->kinds = calloc((size_t)(p->sequence_count * heads * p->lines * p->columns) + 1, 1);
    for (int64_t b = 0; b < p->sequence_count; ++b)
        for (int64_t h = 0; h < heads; ++h)
            for (int64_t line = 0; line < p->lines; ++line) {
                int32_t found[2] = {0, 0};
                unsigned char *kinds = p->kinds + ((b * heads + h) * p->lines + line) * p->columns;
                for (int64_t c = 0; c < p->columns; ++c) {
                    if (b >= n[0] || h >= n[1]) { /* as the one that repeats */
                        const int64_t like = (b % n[0] * heads + h % n[1]) * p->lines + line;
                        kinds[c] = p->kinds[like * p->columns + c];
                        continue;
                    }
                    const int kind = (int)(next_random(&seed) % 8) < 2 + 2 * density
                                         ? 1 + (int)(form == 3 ? next_random(&seed) % 2 : form == 2)
                                         : 0;
                    kinds[c] = (unsigned char)kind;
                    if (mask != NULL)
                        *element(mask, SHAPE(b, h, line, c)) = kind > 0;
                    else if (kind > 0)
                        set_entry(indices[kind - 1], b, h, line, found[kind - 1]++, (int32_t)c);
                }
                for (int i = 0; i < 2; ++i)
                    if (counts[i] != NULL && b < n[0] && h < n[1])
                        set_entry(counts[i], b, h, line, 0, found[i]);
            }
}

/* ------------------------------------------------------------------- codes */

static void set_whole(operand_t *o, const int64_t at[4], int32_t value) {
    memcpy(element(o, at), &value, (size_t)precision_size(o->tensor.precision)); /* the low bytes come first */
}

/* An operand whose elements are set one by one. */
static operand_t *lay_out(reader_t *r, problem_t *p, int operand, int32_t precision, const int64_t shape[4]) {
    operand_t *o = &p->operands[operand];
    free(o->memory), free(o->before);
    o->present = true;
    o->tensor = (mfa_tensor_t)MFA_TENSOR_INIT;
    o->tensor.precision = precision;
    memcpy(o->tensor.shape, shape, sizeof o->tensor.shape);
    read_layout(r, operand, o);
    *problem_slot(p, operand) = &o->tensor;
    return o;
}

#define FOR_EACH_ELEMENT(o, at) for (int64_t at[4] = {0}, more = element_count(o) > 0; more; more = next_element(o, at))

static int64_t shared(int64_t count, int64_t by) { return by == 0 ? 1 : (count + by - 1) / by; }

static void read_scales(reader_t *r, operand_t *o) {
    const int kind = read_below(r, 4);
    uint64_t seed = read_bits(r, 1);
    FOR_EACH_ELEMENT(o, at) {
        const double x = fabs(next_uniform(&seed)) / 64 + 0x1p-12;
        store(o->tensor.precision, element(o, at), kind == 0 ? 0.0078125 : kind == 1 ? x * 100 : x);
    }
}

static void read_zero_points(reader_t *r, operand_t *o, int32_t least, int32_t most) {
    uint64_t seed = read_bits(r, 1);
    if (o->tensor.precision == MFA_PRECISION_INT8 && most > 127)
        most = 127;
    if (o->tensor.precision == MFA_PRECISION_UINT8 && least < 0)
        least = 0;
    FOR_EACH_ELEMENT(o, at)
    set_whole(o, at, least + (int32_t)(next_random(&seed) % (uint64_t)(most - least + 1)));
}

/* Keys, or values, become codes; `scales` and those behind it say what these stand for. */
static void read_codes(reader_t *r, problem_t *p, int operand, int scales, mfa_quantization_t *quantization) {
    static const int32_t formats[] = {MFA_PRECISION_INT8, MFA_PRECISION_UINT8, MFA_PRECISION_INT4, MFA_PRECISION_UINT4};
    static const int32_t wholes[] = {MFA_PRECISION_INT32, MFA_PRECISION_INT8, MFA_PRECISION_UINT8};
    static const int64_t rows[] = {1, 0, 32, 2, 3, 64}, columns[] = {0, 1, 32, 64};
    int64_t n[4];
    memcpy(n, p->operands[operand].tensor.shape, sizeof n);
    const int32_t format = READ_PICK(r, formats);
    quantization->rows = READ_PICK(r, rows);
    quantization->columns = READ_PICK(r, columns);
    const int single = read_below(r, 4);
    const int64_t shape[4] = {single & 1 ? 1 : n[0], single & 2 ? 1 : n[1], shared(n[2], quantization->rows),
                              shared(n[3], quantization->columns)};
    operand_t *o = lay_out(r, p, operand, format, n);
    uint64_t seed = read_bits(r, 1);
    FOR_EACH_ELEMENT(o, at)
    *element(o, at) = (unsigned char)next_random(&seed);
    read_scales(r, lay_out(r, p, scales, read_chance(r, 4) ? MFA_PRECISION_FP16 : MFA_PRECISION_FP32, shape));
    const bool is_signed = format == MFA_PRECISION_INT8 || format == MFA_PRECISION_INT4;
    const int32_t levels = is_packed(format) ? 16 : 256, least = is_signed ? -levels / 2 : 0;
    if (!is_signed || read_chance(r, 2))
        read_zero_points(r, lay_out(r, p, scales + 1, READ_PICK(r, wholes), shape), least, least + levels - 1);
}

static void read_both_codes(reader_t *r, problem_t *p) {
    const int which = read_below(r, 16);
    mfa_attention_desc_t *d = &p->forward;
    if (which & 1) {
        read_codes(r, p, KEY, KEY_SCALES, &p->key_quantization);
        d->key_quantization = &p->key_quantization;
        const int64_t *k = p->operands[KEY].tensor.shape;
        if (which & 4)
            add(r, p, KEY_MEAN, MFA_PRECISION_FP32,
                SHAPE(read_chance(r, 2) ? p->sequence_count : 1, read_chance(r, 2) ? k[1] : 1, 1, k[3]));
    }
    if (which & 2) {
        read_codes(r, p, VALUE, VALUE_SCALES, &p->value_quantization);
        d->value_quantization = &p->value_quantization;
    }
    /* Those of columns that differ from row to row, or page to page, are made anew, to an error of their own. */
    const bool by_rows = p->key_quantization.columns == 0 && p->value_quantization.columns == 0;
    if ((which & 3) == 3 && which & 8 && d->intermediate_precision != MFA_PRECISION_FP32 && by_rows)
        d->compute_mode = MFA_COMPUTE_INT8;
    if ((which & 3) != 0 && p->has_backward)
        p->backward.flags = read_chance(r, 2) ? MFA_BACKWARD_ZERO_CLIPPED : 0;
}

/* Behind all else, so that what older inputs say stays. */
static void read_parts(reader_t *r, problem_t *p) {
    const int64_t *q = p->operands[QUERY].tensor.shape, *k = p->operands[KEY].tensor.shape;
    const bool has_masks = p->operands[BOOL_MASK].present || p->operands[ADDITIVE_MASK].present;
    const int parts = read_below(r, 32);
    const bool is_packed = (parts & 3) == 1 && q[0] == 1 && !has_masks;
    const bool in_pages = (parts & 3) == 2 && q[0] > 0 && k[2] > 0;
    p->sequence_count = is_packed ? 1 + read_below(r, MOST_SEQUENCES) : q[0];
    for (int64_t b = 0; b < p->sequence_count; ++b)
        p->sequence[b] = (sequence_t){.queries = q[2], .query_batch = b, .keys = k[2], .key_batch = b};
    if (is_packed) {
        read_starts(r, p, QUERY_STARTS, q[2]);
        read_starts(r, p, KEY_STARTS, k[2]);
    }
    if (in_pages || ((parts & 3) == 3 && q[0] > 0))
        read_places(r, p, in_pages, has_masks || p->has_backward ? 1 : 1 + read_below(r, 2));
    if (parts & 4)
        read_lengths(r, p, read_below(r, 8));
    int64_t rows = is_packed ? 0 : q[2], keys = is_packed || in_pages ? 0 : k[2];
    for (int64_t b = 0; b < p->sequence_count; ++b) {
        rows = p->sequence[b].queries > rows ? p->sequence[b].queries : rows;
        keys = p->sequence[b].keys > keys ? p->sequence[b].keys : keys;
    }
    if (in_pages && has_masks)
        p->sequences.most_keys = keys = k[2];
    if (is_packed || in_pages || (parts & 7) > 2)
        p->forward.sequences = &p->sequences;
    if (in_pages)
        p->forward.pages = &p->pages;
    if (parts & 8)
        read_blocks(r, p, rows, keys);
    if (parts & 16)
        p->forward.chunk = read_size(r, 1, k[2] + 2);
}

void problem_read(reader_t *r, int64_t work, bool with_codes, problem_t *p) {
    *p = (problem_t){.forward = MFA_ATTENTION_DESC_INIT,
                     .backward = MFA_ATTENTION_BACKWARD_DESC_INIT,
                     .sequences = MFA_SEQUENCES_INIT,
                     .pages = MFA_PAGES_INIT,
                     .blocks = MFA_BLOCKS_INIT,
                     .key_quantization = MFA_QUANTIZATION_INIT,
                     .value_quantization = MFA_QUANTIZATION_INIT};
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
    const bool has_dlogsumexp = p->has_backward && read_backward(r, p, features);
    read_parts(r, p);
    if (with_codes)
        read_both_codes(r, p);
    if (has_dlogsumexp)
        add(r, p, DLOGSUMEXP, MFA_PRECISION_FP32, SHAPE(batch, heads, rows, 1));
}

void problem_free(problem_t *p) {
    for (int i = 0; i < OPERANDS; ++i) {
        free(p->operands[i].memory);
        free(p->operands[i].before);
    }
    free(p->kinds);
}

const mfa_tensor_t **problem_slot(problem_t *p, int operand) {
    mfa_attention_desc_t *f = &p->forward;
    mfa_attention_backward_desc_t *b = &p->backward;
    mfa_sequences_t *s = &p->sequences;
    mfa_blocks_t *l = &p->blocks;
    const mfa_tensor_t **const slots[OPERANDS] = {&f->query,
                                                  &f->key,
                                                  &f->value,
                                                  &f->out,
                                                  &f->logsumexp,
                                                  &f->bool_mask,
                                                  &f->additive_mask,
                                                  &f->alibi_slopes,
                                                  &f->sinks,
                                                  &b->dout,
                                                  &b->dlogsumexp,
                                                  &b->dquery,
                                                  &b->dkey,
                                                  &b->dvalue,
                                                  &b->dbias,
                                                  &b->dsinks,
                                                  &s->query_starts,
                                                  &s->key_starts,
                                                  &s->query_lengths,
                                                  &s->key_lengths,
                                                  &s->left_padding,
                                                  &s->key_batches,
                                                  &p->pages.page_table,
                                                  &l->kv_num_blocks,
                                                  &l->kv_indices,
                                                  &l->full_kv_num_blocks,
                                                  &l->full_kv_indices,
                                                  &l->block_mask,
                                                  &p->key_quantization.scales,
                                                  &p->key_quantization.zero_points,
                                                  &p->key_quantization.mean,
                                                  &p->value_quantization.scales,
                                                  &p->value_quantization.zero_points};
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

void problem_before(problem_t *p, uint64_t written) {
    for (int i = 0; i < OPERANDS; ++i) {
        const operand_t *o = &p->operands[i];
        if (!o->present || o->bytes == 0)
            continue;
        if (written >> i & 1)
            memset(o->memory, 0xff, o->bytes);
        memcpy(o->before, o->memory, o->bytes);
    }
}

void problem_expect_unchanged(const problem_t *p, uint64_t written, const char *call) {
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
    fprintf(stderr, "chunk %" PRId64 ", most_keys %" PRId64 ", blocks %" PRId64 " x %" PRId64 "%s\n", d->chunk,
            p->sequences.most_keys, p->blocks.block_rows, p->blocks.block_keys, d->blocks != NULL ? "" : " (unused)");
    fprintf(stderr,
            "compute_mode %d, backward flags %u, keys share scales by %" PRId64 " x %" PRId64 ", values by %" PRId64
            " x %" PRId64 "\n",
            d->compute_mode, p->backward.flags, p->key_quantization.rows, p->key_quantization.columns,
            p->value_quantization.rows, p->value_quantization.columns);
    for (int64_t b = 0; b < p->sequence_count; ++b) {
        const sequence_t *s = &p->sequence[b];
        fprintf(stderr,
                "sequence %" PRId64 ": %" PRId64 " queries at %" PRId64 ", %" PRId64 "; %" PRId64 " keys at %" PRId64
                ", %" PRId64 "\n",
                b, s->queries, s->query_batch, s->query_row, s->keys, s->key_batch, s->key_row);
    }
}
