/*
 * Right calls with a few things made wrong: sizes, strides, addresses, precisions, pointers, numbers. Whatever the
 * library accepts must be right by a check of its own here; what it refuses leaves memory alone; and a plan says what
 * the call then does.
 */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "problem.h"

enum { ARENA = 8192, MOST_ELEMENTS = 4096, MOST_WORK = 1 << 18 };

typedef struct {
    problem_t problem;
    mfa_context_t context;
    mfa_buffer_t foreign; /* of another context */
    void *target;
    bool has_target;
    unsigned char *arena; /* which misplaced data points into */
} call_t;

/* --------------------------------------------------------- what to break */

static int64_t moved(int64_t x, reader_t *r) { return (int64_t)((uint64_t)x + (uint64_t)read_below(r, 5) - 2); }

static void break_tensor(reader_t *r, call_t *c, operand_t *o) {
    mfa_tensor_t *t = &o->tensor;
    const int axis = read_below(r, 4);
    switch (read_below(r, 12)) {
    case 0:
        t->shape[axis] = read_integer(r);
        break;
    case 1:
        t->stride[axis] = read_integer(r);
        break;
    case 2:
        t->precision = (int32_t)read_integer(r);
        break;
    case 3:
        t->byte_offset = (uint64_t)read_integer(r);
        break;
    case 4:
        t->byte_offset += (uint64_t)read_below(r, 16) - 8;
        break;
    case 5:
        t->data = read_chance(r, 2) ? NULL : c->arena + read_below(r, 16);
        break;
    case 6:
        t->buffer = read_chance(r, 2) ? NULL : c->foreign;
        break;
    case 7: /* no larger than it is, so that the library does not rightly read what lies behind */
        t->struct_size = (uint32_t)read_below(r, sizeof *t + 1);
        break;
    case 8:
        t->struct_size = 65537u + (uint32_t)read_bits(r, 4) % (UINT32_MAX - 65537u);
        break;
    case 9:
        t->shape[axis] = moved(t->shape[axis], r);
        break;
    case 10:
        t->stride[axis] = moved(t->stride[axis], r);
        break;
    default: { /* another operand's memory, shifted */
        const operand_t *other = &c->problem.operands[read_below(r, OPERANDS)];
        if (other->present) {
            t->data = other->tensor.data;
            t->buffer = other->tensor.buffer;
            t->byte_offset = other->tensor.byte_offset + (uint64_t)(other->in_buffer ? 4 * read_below(r, 4) : 0);
        }
    }
    }
}

static float read_number(reader_t *r) {
    static const float numbers[] = {NAN, INFINITY, -INFINITY, -1, 1, 0, -0.0f, 3e38f, 1e-45f, 0.99999997f};
    return READ_PICK(r, numbers);
}

static void break_scalar(reader_t *r, mfa_attention_desc_t *d) {
    const int which = read_below(r, 9);
    float *const numbers[] = {&d->softmax_scale, &d->softcap, &d->dropout_p};
    int32_t *const codes[] = {&d->alignment, &d->intermediate_precision};
    int64_t *const windows[] = {&d->window_left, &d->window_right};
    if (which < 3)
        *numbers[which] = read_number(r);
    else if (which < 5)
        *codes[which - 3] = (int32_t)read_integer(r);
    else if (which < 7)
        *windows[which - 5] = read_integer(r);
    else
        *(which == 7 ? &d->flags : &d->reserved) = (uint32_t)read_integer(r);
}

/* An entry of one of the lists. */
static void break_entry(reader_t *r, problem_t *p) {
    const int first = read_below(r, OPERANDS - QUERY_STARTS), which = read_below(r, 256);
    const int32_t value = (int32_t)read_integer(r);
    for (int i = 0; i < OPERANDS - QUERY_STARTS; ++i) {
        operand_t *o = &p->operands[QUERY_STARTS + (first + i) % (OPERANDS - QUERY_STARTS)];
        if (!o->present || o->bytes < sizeof value || o->tensor.precision != MFA_PRECISION_INT32)
            continue;
        memcpy(o->memory + which % (o->bytes / sizeof value) * sizeof value, &value, sizeof value);
        return;
    }
}

static void break_part(reader_t *r, problem_t *p) {
    mfa_attention_desc_t *d = &p->forward;
    int64_t *const sizes[] = {&p->sequences.most_queries, &p->sequences.most_keys, &p->blocks.block_rows,
                              &p->blocks.block_keys, &d->chunk};
    uint32_t *const words[] = {&p->sequences.reserved, &p->pages.reserved, &p->blocks.reserved};
    const int which = read_below(r, 12);
    if (which < 5)
        *sizes[which] = read_integer(r);
    else if (which < 8)
        *words[which - 5] = (uint32_t)read_integer(r);
    else if (which == 8)
        d->sequences = d->sequences == NULL ? &p->sequences : NULL;
    else if (which == 9)
        d->pages = d->pages == NULL ? &p->pages : NULL;
    else if (which == 10)
        d->blocks = d->blocks == NULL ? &p->blocks : NULL;
    else /* no larger than they are */
        p->sequences.struct_size = p->pages.struct_size = p->blocks.struct_size = (uint32_t)read_below(r, 17);
}

static void break_something(reader_t *r, call_t *c) {
    problem_t *p = &c->problem;
    const int operand = read_below(r, OPERANDS), kind = read_below(r, 24);
    if (kind >= 20)
        break_entry(r, p);
    else if (kind >= 16)
        break_part(r, p);
    else if (kind < 10 && p->operands[operand].present)
        break_tensor(r, c, &p->operands[operand]);
    else if (kind < 13)
        break_scalar(r, &p->forward);
    else if (kind == 13)
        *problem_slot(p, operand) = NULL;
    else if (kind == 14)
        *problem_slot(p, operand) = *problem_slot(p, read_below(r, OPERANDS));
    else
        p->backward.flags = (uint32_t)read_integer(r);
}

/* ------------------------------------------------------- what is then right */

typedef __int128 wide;

/* Bytes from element 0, 0, 0, 0 that a tensor reaches; false if it has no element. */
static bool extent(const mfa_tensor_t *t, wide *low, wide *end) {
    *low = *end = 0;
    for (int axis = 0; axis < 4; ++axis) {
        if (t->shape[axis] == 0)
            return false;
        const wide reach = (wide)(t->shape[axis] - 1) * (t->shape[axis] > 1 ? t->stride[axis] : 0);
        *(reach < 0 ? low : end) += reach;
    }
    *low *= precision_size(t->precision);
    *end = (*end + 1) * precision_size(t->precision);
    return true;
}

/* The block of memory that an address is in. */
static bool find_block(const call_t *c, const void *data, const unsigned char **memory, size_t *bytes) {
    const uintptr_t address = (uintptr_t)data;
    for (int i = 0; i <= OPERANDS; ++i) {
        *memory = i < OPERANDS ? c->problem.operands[i].memory : c->arena;
        *bytes = i < OPERANDS ? c->problem.operands[i].bytes : ARENA;
        if (*memory != NULL && address >= (uintptr_t)*memory && address < (uintptr_t)*memory + *bytes)
            return true;
    }
    return false;
}

/* Its first element's address, if all of it lies inside the block, or the buffer, that this is in. */
static const unsigned char *inside(const call_t *c, const mfa_tensor_t *t) {
    wide low, end;
    const unsigned char *memory;
    size_t bytes;
    extent(t, &low, &end);
    const unsigned char *data = t->data;
    if (t->buffer != NULL) {
        memory = mfa_buffer_contents(t->buffer);
        bytes = mfa_buffer_size(t->buffer);
        if (t->data != NULL || t->byte_offset > bytes)
            return NULL;
        data = memory + t->byte_offset;
    } else if (!find_block(c, data, &memory, &bytes)) {
        return NULL;
    }
    const wide offset = data - memory;
    return offset + low >= 0 && offset + end <= (wide)bytes ? data : NULL;
}

static const mfa_tensor_t *operand(const call_t *c, int i) { return *problem_slot((problem_t *)&c->problem, i); }

/* Whether the descriptor reaches an operand. */
static bool is_described(const call_t *c, int i, bool backward) {
    const mfa_attention_desc_t *d = &c->problem.forward;
    return i < QUERY_STARTS  ? is_of_call(i, backward)
           : i < PAGE_TABLE  ? d->sequences != NULL
           : i >= KEY_SCALES ? false /* its calls have no codes */
           : i > PAGE_TABLE  ? d->blocks != NULL
                             : d->pages != NULL;
}

/* Whether it may read the lists, as a plan does: each in memory, and of no more entries than a test has time for. */
static bool may_read_lists(const call_t *c, bool backward) {
    const mfa_tensor_t *q = operand(c, QUERY);
    wide low, end;
    if (c->problem.forward.sequences != NULL && q != NULL && q->shape[0] > MOST_ELEMENTS)
        return false;
    for (int i = QUERY_STARTS; i < OPERANDS; ++i) {
        const mfa_tensor_t *t = is_described(c, i, backward) ? operand(c, i) : NULL;
        if (t == NULL)
            continue;
        wide count = 1;
        for (int axis = 0; axis < 4; ++axis) {
            if (t->shape[axis] < 0 || t->shape[axis] > 1 << 20)
                return false;
            count *= t->shape[axis];
        }
        if (count > 1 << 20 || (extent(t, &low, &end) && inside(c, t) == NULL))
            return false;
    }
    return true;
}

/* Whether the library may follow every pointer: a tensor without a buffer it has to believe. */
static bool may_run(const call_t *c, bool backward) {
    const mfa_tensor_t *q = operand(c, QUERY), *k = operand(c, KEY), *v = operand(c, VALUE);
    wide low, end;
    for (int i = 0; i < OPERANDS; ++i) {
        const mfa_tensor_t *t = is_described(c, i, backward) ? operand(c, i) : NULL;
        if (t != NULL && extent(t, &low, &end) && inside(c, t) == NULL)
            return false;
    }
    const mfa_attention_desc_t *d = &c->problem.forward;
    if (d->blocks != NULL && d->sequences != NULL &&
        (d->sequences->most_keys > MOST_WORK || d->sequences->most_queries > MOST_WORK)) /* so many bits */
        return false;
    const wide rows = (wide)q->shape[0] * q->shape[1] * (q->shape[2] + 1);
    return rows < MOST_WORK && k->shape[2] < MOST_WORK && q->shape[3] < MOST_WORK && v->shape[3] < MOST_WORK &&
           rows * (k->shape[2] + 1) * (q->shape[3] + v->shape[3]) < MOST_WORK;
}

/* Marks the bytes of an output, at most those of a few thousand elements; false if another has one of them. */
static bool mark(const mfa_tensor_t *t, const unsigned char *data, const unsigned char *base, unsigned char *marks,
                 size_t count, bool write) {
    const int64_t *n = t->shape, *s = t->stride;
    const int size = precision_size(t->precision);
    for (int64_t a = 0; a < n[0]; ++a)
        for (int64_t b = 0; b < n[1]; ++b)
            for (int64_t i = 0; i < n[2]; ++i)
                for (int64_t j = 0; j < n[3]; ++j) {
                    int64_t at = data - base;
                    const int64_t index[4] = {a, b, i, j};
                    for (int axis = 0; axis < 4; ++axis)
                        at += n[axis] > 1 ? index[axis] * s[axis] * size : 0;
                    for (int byte = 0; byte < size; ++byte)
                        if (at + byte >= 0 && at + byte < (int64_t)count) {
                            if (marks[at + byte])
                                return false;
                            marks[at + byte] |= write;
                        }
                }
    return true;
}

/* By brute force over the block of each output: all elements of outputs apart, and apart from inputs. */
static bool is_apart(const call_t *c, bool backward) {
    const uint64_t outputs = backward ? BACKWARD_WRITES : FORWARD_WRITES;
    wide low, end;
    for (int i = 0; i < OPERANDS; ++i) {
        const mfa_tensor_t *t = operand(c, i);
        if (!(outputs >> i & 1) || t == NULL || !extent(t, &low, &end))
            continue;
        const unsigned char *data = inside(c, t), *base;
        size_t bytes;
        if (data == NULL || !find_block(c, data, &base, &bytes) || bytes > 4 * MOST_ELEMENTS)
            continue;
        unsigned char marks[4 * MOST_ELEMENTS] = {0};
        if (!mark(t, data, base, marks, bytes, true))
            return false;
        for (int other = 0; other < OPERANDS; ++other) {
            const mfa_tensor_t *o = is_described(c, other, backward) ? operand(c, other) : NULL;
            if (other != i && o != NULL && extent(o, &low, &end) && inside(c, o) != NULL &&
                !mark(o, inside(c, o), base, marks, bytes, false))
                return false;
        }
    }
    return true;
}

static bool has_shape(const mfa_tensor_t *t, const int64_t shape[4], bool broadcast) {
    for (int axis = 0; axis < 4; ++axis)
        if (t->shape[axis] != shape[axis] && !(broadcast && t->shape[axis] == 1))
            return false;
    return true;
}

#define SHAPE(...) ((const int64_t[4]){__VA_ARGS__})

static const mfa_tensor_t *described(const call_t *c, int i) { return is_described(c, i, true) ? operand(c, i) : NULL; }

static int64_t entry(const call_t *c, const mfa_tensor_t *t, int64_t b, int64_t h, int64_t i, int64_t j) {
    const int64_t index[4] = {b, h, i, j};
    const unsigned char *at = inside(c, t);
    int32_t value;
    for (int axis = 0; axis < 4; ++axis)
        at += t->shape[axis] > 1 ? index[axis] * t->stride[axis] * (int64_t)sizeof value : 0;
    memcpy(&value, at, sizeof value);
    return value;
}

/* What the lists of sequences say, or `otherwise`. */
static int64_t entry_or(const call_t *c, int list, int64_t b, int64_t otherwise) {
    return described(c, list) != NULL ? entry(c, described(c, list), 0, 0, 0, b) : otherwise;
}

static void expect_right_sequences(const call_t *c, bool backward) {
    const mfa_tensor_t *q = operand(c, QUERY), *k = operand(c, KEY), *table = described(c, PAGE_TABLE);
    const mfa_tensor_t *starts = described(c, QUERY_STARTS);
    const int64_t count = starts != NULL ? starts->shape[3] - 1 : q->shape[0], rows = k->shape[2];
    int64_t queries = 0, keys = 0;
    EXPECT(count >= 0 && entry_or(c, QUERY_STARTS, 0, 0) == 0 && entry_or(c, KEY_STARTS, 0, 0) == 0,
           "starts that do not start at 0 are accepted");
    for (int64_t b = 0; b < count; ++b) {
        const int64_t q0 = entry_or(c, QUERY_STARTS, b, 0), q1 = entry_or(c, QUERY_STARTS, b + 1, q->shape[2]);
        const int64_t room = table != NULL ? table->shape[3] * rows
                                           : entry_or(c, KEY_STARTS, b + 1, rows) - entry_or(c, KEY_STARTS, b, 0);
        const int64_t there = entry_or(c, KEY_LENGTHS, b, room), padding = entry_or(c, LEFT_PADDING, b, 0);
        const int64_t few = entry_or(c, QUERY_LENGTHS, b, q1 - q0), batch = entry_or(c, KEY_BATCHES, b, 0);
        EXPECT(q0 >= 0 && q1 >= q0 && q1 <= q->shape[2] && few >= 0 && few <= q1 - q0, "wrong queries are accepted");
        EXPECT(room >= 0 && there <= room && padding >= 0 && padding <= there, "wrong keys are accepted");
        EXPECT(table != NULL || entry_or(c, KEY_STARTS, b + 1, 0) <= rows, "keys that are not there are accepted");
        EXPECT(batch >= 0 && (batch < k->shape[0] || described(c, KEY_BATCHES) == NULL), "a wrong batch is accepted");
        for (int64_t row = padding; table != NULL && row < there; ++row) {
            const int64_t page = entry(c, table, 0, 0, b, row / rows);
            EXPECT(page >= 0 && page < k->shape[0], "page %" PRId64 " is accepted", page);
        }
        for (int64_t other = 0; backward && other < b; ++other)
            EXPECT(described(c, KEY_BATCHES) == NULL || there == padding ||
                       entry_or(c, KEY_BATCHES, other, 0) != batch ||
                       entry_or(c, KEY_LENGTHS, other, rows) == entry_or(c, LEFT_PADDING, other, 0),
                   "a batch of two sequences is accepted");
        queries = few > queries ? few : queries;
        keys = there - padding > keys ? there - padding : keys;
    }
    const mfa_sequences_t *s = c->problem.forward.sequences;
    EXPECT(s == NULL || (s->most_queries >= 0 && (s->most_queries == 0 || s->most_queries >= queries)),
           "most_queries is accepted");
    EXPECT(s == NULL || (s->most_keys >= 0 && (s->most_keys == 0 || s->most_keys >= keys)), "most_keys is accepted");
}

/* A row's blocks are those that are there, in order, each once. */
static void expect_right_list(const call_t *c, int counts_operand) {
    const mfa_tensor_t *counts = described(c, counts_operand), *indices = described(c, counts_operand + 1);
    EXPECT((counts == NULL) == (indices == NULL), "half a list is accepted");
    const mfa_tensor_t *starts = described(c, QUERY_STARTS);
    if ((starts != NULL ? starts->shape[3] - 1 : operand(c, QUERY)->shape[0]) == 0) /* one list may serve no batch */
        return;
    for (int64_t b = 0; counts != NULL && b < counts->shape[0]; ++b)
        for (int64_t h = 0; h < counts->shape[1]; ++h)
            for (int64_t i = 0; i < counts->shape[2]; ++i) {
                int64_t before = -1;
                const int64_t count = entry(c, counts, b, h, i, 0);
                EXPECT(count >= 0 && count <= indices->shape[3], "%" PRId64 " blocks are accepted", count);
                for (int64_t j = 0; j < count; ++j) {
                    const int64_t block = entry(c, indices, b, h, i, j);
                    EXPECT(block > before, "block %" PRId64 " behind %" PRId64 " is accepted", block, before);
                    before = block;
                }
            }
}

static void expect_right_parts(const call_t *c, bool backward) {
    const mfa_attention_desc_t *d = &c->problem.forward;
    if (d->sequences != NULL || d->pages != NULL)
        expect_right_sequences(c, backward);
    EXPECT(d->sequences == NULL || d->sequences->reserved == 0, "reserved is accepted");
    EXPECT(d->pages == NULL || (d->pages->reserved == 0 && described(c, PAGE_TABLE) != NULL), "no pages are accepted");
    if (d->blocks == NULL)
        return;
    expect_right_list(c, KV_NUM_BLOCKS);
    expect_right_list(c, FULL_KV_NUM_BLOCKS);
    const bool has_lists = described(c, KV_NUM_BLOCKS) != NULL || described(c, FULL_KV_NUM_BLOCKS) != NULL;
    EXPECT(has_lists == (described(c, BLOCK_MASK) == NULL), "no blocks, or those of two kinds, are accepted");
    EXPECT(d->blocks->reserved == 0 && d->blocks->block_rows > 0 && d->blocks->block_keys > 0,
           "blocks of no size are accepted");
}

/* What include/mfa.h asks of a call, once more. Only for what the library has accepted. */
static void expect_right(const call_t *c, bool backward) {
    const mfa_attention_desc_t *d = &c->problem.forward;
    wide low, end;
    for (int i = 0; i < OPERANDS; ++i) {
        const mfa_tensor_t *t = is_described(c, i, backward) ? operand(c, i) : NULL;
        if (t == NULL)
            continue;
        const bool is_bool = i == BOOL_MASK || i == BLOCK_MASK;
        const bool is_float =
            t->precision == MFA_PRECISION_FP32 || (i != LOGSUMEXP && i != ALIBI_SLOPES && i != SINKS && i != DSINKS &&
                                                   i != DLOGSUMEXP && t->precision >= 0 && t->precision < 2);
        EXPECT(is_bool             ? t->precision == MFA_PRECISION_BOOL
               : i >= QUERY_STARTS ? t->precision == MFA_PRECISION_INT32
                                   : is_float,
               "%s of precision %d is accepted", operand_names[i], t->precision);
        EXPECT(t->struct_size >= sizeof *t && t->struct_size <= 65536, "%s of struct_size %u is accepted",
               operand_names[i], t->struct_size);
        for (int axis = 0; axis < 4; ++axis)
            EXPECT(t->shape[axis] >= 0, "%s with a negative size is accepted", operand_names[i]);
        EXPECT(t->data == NULL || t->buffer == NULL, "%s with data and buffer is accepted", operand_names[i]);
        EXPECT(t->buffer != NULL || t->byte_offset == 0, "%s with an offset without buffer is accepted",
               operand_names[i]);
        EXPECT(t->buffer != c->foreign, "%s in another context's buffer is accepted", operand_names[i]);
        if (!extent(t, &low, &end))
            continue;
        const wide address = t->buffer != NULL ? (wide)(uintptr_t)mfa_buffer_contents(t->buffer) + t->byte_offset
                                               : (wide)(uintptr_t)t->data;
        EXPECT(address % precision_size(t->precision) == 0, "%s that is not aligned is accepted", operand_names[i]);
        EXPECT(t->buffer == NULL || inside(c, t) != NULL, "%s that leaves its buffer is accepted", operand_names[i]);
    }
    const mfa_tensor_t *q = operand(c, QUERY), *k = operand(c, KEY), *v = operand(c, VALUE);
    EXPECT(q != NULL && k != NULL && v != NULL && operand(c, OUT) != NULL, "a missing operand is accepted");
    EXPECT(k->precision == q->precision && v->precision == q->precision, "precisions that differ are accepted");
    expect_right_parts(c, backward);
    const bool has_lists = d->sequences != NULL || d->pages != NULL;
    const mfa_tensor_t *starts = described(c, QUERY_STARTS);
    const int64_t sequences = starts != NULL ? starts->shape[3] - 1 : q->shape[0];
    const bool any_batch = described(c, PAGE_TABLE) != NULL || described(c, KEY_BATCHES) != NULL;
    const int64_t b = q->shape[0], h = q->shape[1], rows = q->shape[2], kv = k->shape[1], keys = k->shape[2];
    const int64_t *out = SHAPE(b, h, rows, v->shape[3]);
    EXPECT(h > 0 && kv > 0 && h % kv == 0 && q->shape[3] > 0 && v->shape[3] > 0, "wrong numbers of heads are accepted");
    const int64_t kb = any_batch ? k->shape[0] : described(c, KEY_STARTS) != NULL ? 1 : sequences;
    EXPECT(starts == NULL || b == 1, "packed queries of several batches are accepted");
    EXPECT(has_shape(k, SHAPE(kb, kv, keys, q->shape[3]), false), "a wrong shape of key is accepted");
    EXPECT(has_shape(v, SHAPE(kb, kv, keys, v->shape[3]), false), "a wrong shape of value is accepted");
    const int64_t *const shapes[OPERANDS] = {
        [OUT] = out,
        [LOGSUMEXP] = SHAPE(b, h, rows, 1),
        [BOOL_MASK] = SHAPE(sequences, h, rows, keys),
        [ADDITIVE_MASK] = SHAPE(sequences, h, rows, keys),
        [ALIBI_SLOPES] = SHAPE(sequences, h, 1, 1),
        [SINKS] = SHAPE(1, h, 1, 1),
        [DOUT] = out,
        [DLOGSUMEXP] = SHAPE(b, h, rows, 1),
        [DQUERY] = q->shape,
        [DKEY] = k->shape,
        [DVALUE] = v->shape,
        [DBIAS] = operand(c, ADDITIVE_MASK) != NULL ? operand(c, ADDITIVE_MASK)->shape : NULL,
        [DSINKS] = operand(c, SINKS) != NULL ? operand(c, SINKS)->shape : NULL,
    };
    for (int i = OUT; i < (backward ? QUERY_STARTS : DOUT); ++i) {
        const mfa_tensor_t *t = operand(c, i);
        if (has_lists && (i == BOOL_MASK || i == ADDITIVE_MASK)) /* of the longest sequence */
            continue;
        const bool broadcast = i == BOOL_MASK || i == ADDITIVE_MASK || i == ALIBI_SLOPES;
        EXPECT(t == NULL || (shapes[i] != NULL && has_shape(t, shapes[i], broadcast)),
               "a wrong shape of %s is accepted", operand_names[i]);
    }
    EXPECT(operand(c, ALIBI_SLOPES) == NULL || operand(c, ALIBI_SLOPES)->shape[1] == h,
           "slopes of one head are accepted");
    const bool needs = (d->flags & 1) || d->window_left >= 0 || d->window_right >= 0 || d->chunk > 0 ||
                       operand(c, ALIBI_SLOPES) != NULL;
    EXPECT(d->chunk >= 0, "chunk is accepted");
    EXPECT(d->flags < 4 && d->reserved == 0 && (!backward || c->problem.backward.flags <= MFA_BACKWARD_ZERO_CLIPPED),
           "unknown flags are accepted");
    EXPECT(d->alignment >= needs && d->alignment <= 2, "alignment %d is accepted", d->alignment);
    EXPECT(d->window_left >= -1 && d->window_right >= -1, "a negative window is accepted");
    EXPECT(isfinite(d->softmax_scale) && isfinite(d->softcap) && d->softcap >= 0, "scale or softcap is accepted");
    EXPECT(d->dropout_p >= 0 && d->dropout_p < 1, "dropout_p %g is accepted", d->dropout_p);
    EXPECT(d->intermediate_precision >= -1 && d->intermediate_precision <= 2, "intermediate_precision is accepted");
    EXPECT(!backward || (operand(c, LOGSUMEXP) != NULL && operand(c, DOUT) != NULL), "a missing operand is accepted");
    EXPECT(is_apart(c, backward), "an output that shares memory is accepted");
}

/* ------------------------------------------------------------------ calls */

static mfa_status_t plan(const call_t *c, bool backward, mfa_plan_t *plan) {
    forget_message();
    return backward ? checked("backward_plan", mfa_attention_backward_plan(c->context, &c->problem.backward, plan))
                    : checked("forward_plan", mfa_attention_forward_plan(c->context, &c->problem.forward, plan));
}

static mfa_status_t run(const call_t *c, bool backward) {
    forget_message();
    return backward ? checked("backward", mfa_attention_backward_desc(c->context, &c->problem.backward))
                    : checked("forward", mfa_attention_forward_desc(c->context, &c->problem.forward));
}

static void encode(const call_t *c, bool backward) {
    forget_message();
    const mfa_status_t status =
        backward
            ? checked("backward_encode", mfa_attention_backward_encode(c->context, &c->problem.backward, c->target))
            : checked("forward_encode", mfa_attention_forward_encode(c->context, &c->problem.forward, c->target));
    EXPECT(status == MFA_ERROR_UNSUPPORTED || (status == MFA_ERROR_INVALID_ARGS && c->target == NULL),
           "the CPU has encoded: status %d", status);
}

static void attack(call_t *c, bool backward) {
    problem_t *p = &c->problem;
    mfa_plan_t found = MFA_PLAN_INIT;
    if (!may_read_lists(c, backward))
        return;
    problem_before(p, 0);
    encode(c, backward);
    const mfa_status_t status = planted("accept everything") ? MFA_SUCCESS : plan(c, backward, &found);
    problem_expect_unchanged(p, 0, "a plan");
    if (status == MFA_SUCCESS)
        expect_right(c, backward);
    if (status == MFA_SUCCESS && !may_run(c, backward))
        return;
    const mfa_status_t ran = run(c, backward);
    if (status != MFA_SUCCESS) {
        EXPECT(ran == status, "the plan gave status %d and the call %d", status, ran);
        if (planted("write on failure") && p->operands[OUT].bytes > 0)
            p->operands[OUT].memory[0] ^= 1;
        problem_expect_unchanged(p, 0, "a call that failed");
        return;
    }
    EXPECT(ran == found.status || ran == MFA_ERROR_MEMORY_ALLOCATION, "the plan has status %d, the call gave %d",
           found.status, ran);
    EXPECT(found.struct_size == sizeof found && found.backend == MFA_BACKEND_CPU && found.kernel[0] != '\0' &&
               found.num_threads >= 1,
           "the plan says nothing");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    reader_t r = {data, data + size};
    call_t c = {.arena = calloc(1, ARENA)};
    const int where = read_below(&r, 32), changes = 1 + read_below(&r, 3);
    uint8_t change_bytes[24] = {0};
    for (size_t i = 0; i < sizeof change_bytes; ++i)
        change_bytes[i] = (uint8_t)read_bits(&r, 1);
    reader_t change = {change_bytes, change_bytes + sizeof change_bytes};
    c.context = context_of(0, 1);
    c.target = where & 1 ? &c : NULL;
    EXPECT(mfa_buffer_from_ptr(context_of(0, 3), c.arena, ARENA, &c.foreign) == MFA_SUCCESS, "no buffer");
    problem_read(&r, 1 << 12, false, &c.problem);
    problem_bind(&c.problem, c.context);
    mfa_buffer_t bound[OPERANDS];
    for (int i = 0; i < OPERANDS; ++i)
        bound[i] = c.problem.operands[i].tensor.buffer;
    for (int i = 0; i < changes; ++i)
        break_something(&change, &c);
    if (where == 30)
        c.context = NULL;
    if (where == 31)
        c.problem.backward.forward = NULL;
    if (c.context != NULL)
        attack(&c, c.problem.has_backward && where >= 8);
    else
        EXPECT(run(&c, false) == MFA_ERROR_INVALID_ARGS && run(&c, true) == MFA_ERROR_INVALID_ARGS,
               "no context is accepted");
    for (int i = 0; i < OPERANDS; ++i)
        c.problem.operands[i].tensor.buffer = bound[i];
    problem_unbind(&c.problem);
    problem_free(&c.problem);
    mfa_destroy_buffer(c.foreign);
    free(c.arena);
    return 0;
}
