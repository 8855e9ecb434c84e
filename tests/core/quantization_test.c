/* What codes stand for: every way in which it can be wrong, which scales are looked at, and where they lie. */
#include "core/quantization.h"
#include "described.h"

enum {
    CODES = 1 << MFAI_DESC_KEY_QUANTIZATION | 1 << MFAI_DESC_VALUE_QUANTIZATION,
    IN_SEQUENCES = CODES | 1 << MFAI_DESC_SEQUENCES,
    IN_PAGES = IN_SEQUENCES | 1 << MFAI_DESC_PAGES,
    APPENDED = IN_SEQUENCES | 1 << MFAI_DESC_APPEND
};

static call quantised(mfa_context_t context, mfai_pass_t pass) { return good(context, pass, CODES); }

/* Keys are rows 0 and 1 of batch 0, and rows 1 to 3 of batch 1. */
static call with_lengths(mfa_context_t context, mfai_pass_t pass) {
    call c = good(context, pass, IN_SEQUENCES);
    ABSENT(sequences.query_starts) = ABSENT(sequences.key_starts) = ABSENT(sequences.key_batches) = true;
    FILL(sequences.query_lengths, {3, 2});
    FILL(sequences.key_lengths, {2, 4});
    FILL(sequences.left_padding, {0, 1});
    return c;
}

/* Six pages of two rows: keys are rows 0 of page 4, and page 1 and row 0 of page 3. */
static call paged(mfa_context_t context, mfai_pass_t pass) {
    call c = good(context, pass, IN_PAGES);
    ABSENT(sequences.query_starts) = ABSENT(sequences.key_starts) = ABSENT(sequences.key_batches) = true;
    FILL(sequences.query_lengths, {3, 2});
    ABSENT(bool_mask) = true;
    FILL(sequences.key_lengths, {1, 3});
    FILL(sequences.left_padding, {0, 0});
    FILL(pages.page_table, {4, 99, 99, 1, 3, 99});
    pack(&T(key), 6, 2, 2, 8);
    pack(&T(value), 6, 2, 2, 6);
    pack(&T(dkey), 6, 2, 2, 8);
    pack(&T(dvalue), 6, 2, 2, 6);
    pack(&T(key_quantization.scales), 6, 2, 2, 1);
    pack(&T(key_quantization.zero_points), 6, 2, 2, 1);
    pack(&T(value_quantization.scales), 6, 2, 1, 1);
    pack(&T(value_quantization.zero_points), 6, 2, 1, 1);
    for (int i = 0; i < 24; ++i)
        DATA(key_quantization.scales)[i] = DATA(value_quantization.scales)[i] = 1;
    return c;
}

/* Five packed rows: two keys of the first sequence and three of the second. */
static call packed(mfa_context_t context, mfai_pass_t pass) {
    call c = good(context, pass, IN_SEQUENCES);
    ABSENT(sequences.query_starts) = ABSENT(sequences.key_batches) = true;
    ABSENT(bool_mask) = true;
    FILL(sequences.key_starts, {0, 2, 5});
    FILL(sequences.query_lengths, {3, 2});
    FILL(sequences.key_lengths, {2, 3});
    FILL(sequences.left_padding, {0, 0});
    const char *const of_keys[] = {"key",
                                   "value",
                                   "dkey",
                                   "dvalue",
                                   "key_quantization.scales",
                                   "key_quantization.zero_points",
                                   "value_quantization.scales",
                                   "value_quantization.zero_points"};
    for (size_t i = 0; i < sizeof of_keys / sizeof *of_keys; ++i)
        c.tensors[number_of(of_keys[i])].shape[0] = 1;
    return c;
}

/* A cache of codes without rows, to which two are added. */
static call appended(mfa_context_t context, mfai_pass_t pass) {
    call c = good(context, pass, APPENDED);
    ABSENT(sequences.query_starts) = ABSENT(sequences.key_starts) = ABSENT(sequences.key_batches) = true;
    ABSENT(append.starts) = true;
    FILL(sequences.query_lengths, {3, 2});
    FILL(sequences.key_lengths, {0, 0});
    FILL(sequences.left_padding, {0, 0});
    FILL(append.rotary_positions, {0, 0});
    c.value_quantization.rows = 1;
    pack(&T(value_quantization.scales), 2, 2, 5, 1);
    pack(&T(value_quantization.zero_points), 2, 2, 5, 1);
    return c;
}

#define INVALID(change, fragment) INVALID_OF(quantised(context, MFAI_FORWARD), change, fragment)
#define FINE(change) FINE_OF(quantised(context, MFAI_FORWARD), change)
#define WITHOUT(part) c.parts &= ~(1u << MFAI_DESC_##part)

static void test_what_it_comes_to(mfa_context_t context) {
    call c = quantised(context, MFAI_FORWARD);
    CHECK(import(&c) == MFA_SUCCESS);
    CHECK((problem.features & (MFAI_KEY_CODES | MFAI_VALUE_CODES | MFAI_INT8)) == (MFAI_KEY_CODES | MFAI_VALUE_CODES));
    CHECK(problem.key_quantization.rows == 1 && problem.value_quantization.rows == 2);
    CHECK(problem.key_quantization.mean.present && problem.key_quantization.columns == 0);
    ABSENT(query_value) = true;
    c.desc.compute_mode = MFA_COMPUTE_INT8;
    CHECK(import(&c) == MFA_SUCCESS && problem.features & MFAI_INT8);
    WITHOUT(VALUE_QUANTIZATION);
    T(value).precision = MFA_PRECISION_FP32;
    c.desc.compute_mode = MFA_COMPUTE_EXACT;
    CHECK(import(&c) == MFA_SUCCESS && !(problem.features & MFAI_VALUE_CODES) && problem.features & MFAI_KEY_CODES);
    CHECK(!problem.value_quantization.scales.present);
}

static void test_zero_clipped(mfa_context_t context) {
    call c = quantised(context, MFAI_BACKWARD);
    CHECK(import(&c) == MFA_SUCCESS && !(problem.features & MFAI_ZERO_CLIPPED));
    c.backward.flags = MFA_BACKWARD_ZERO_CLIPPED;
    CHECK(import(&c) == MFA_SUCCESS && problem.features & MFAI_ZERO_CLIPPED);
    WITHOUT(VALUE_QUANTIZATION), WITHOUT(KEY_QUANTIZATION);
    T(key).precision = T(value).precision = MFA_PRECISION_FP32;
    CHECK(import(&c) == MFA_SUCCESS && !(problem.features & MFAI_ZERO_CLIPPED)); /* there is nothing to clip */
}

static void test_struct(mfa_context_t context) {
    INVALID(c.key_quantization.struct_size = 40, "key_quantization.struct_size is 40, expected at least 48");
    INVALID(c.value_quantization.struct_size = 0, "value_quantization.struct_size is 0");
    INVALID(c.key_quantization.reserved = 1, "key_quantization.reserved is 1, expected 0");
    INVALID(c.key_quantization.rows = -1, "key_quantization.rows is -1, expected 0 (all) or more");
    INVALID(c.value_quantization.rows = INT64_MIN, "value_quantization.rows is -9223372036854775808");
    INVALID(c.key_quantization.columns = 5, "key_quantization.columns is 5, expected 0 (all), 1 or a multiple of 32");
    INVALID(c.value_quantization.columns = -32, "value_quantization.columns is -32");
    INVALID(c.value_quantization.mean = &T(sinks), "value_quantization.mean is set, expected NULL: only keys have one");
    INVALID(c.desc.reserved2 = 7, "reserved2 is 7, expected 0");
}

static void test_formats(mfa_context_t context) {
    INVALID(WITHOUT(KEY_QUANTIZATION), "key.precision is INT8, but key_quantization is NULL");
    INVALID(WITHOUT(VALUE_QUANTIZATION), "value.precision is UINT4, but value_quantization is NULL");
    INVALID(T(key).precision = MFA_PRECISION_FP32, "key_quantization is set, but key.precision is FP32, no codes");
    INVALID(T(value).precision = MFA_PRECISION_FP32, "value_quantization is set, but value.precision is FP32");
    INVALID(T(value).precision = MFA_PRECISION_BF16, "value.precision is BF16, expected query's, FP32");
    INVALID(T(key).precision = MFA_PRECISION_BOOL, "key.precision is BOOL");
    INVALID(T(query).precision = MFA_PRECISION_UINT4, "query.precision is UINT4");
    FINE(T(key).precision = MFA_PRECISION_UINT8);
    FINE(T(key).precision = MFA_PRECISION_INT4);
    FINE(T(value).precision = MFA_PRECISION_INT8);
    INVALID((T(key).precision = MFA_PRECISION_INT4, T(key).stride[2] = 9), "key.stride[2] is 9, expected an even");
    INVALID(ABSENT(value_quantization.zero_points) = true,
            "value_quantization.zero_points is NULL, expected zero points for UINT4 codes");
    FINE(ABSENT(key_quantization.zero_points) = true);
    INVALID((ABSENT(key_quantization.zero_points) = true, T(key).precision = MFA_PRECISION_UINT8),
            "key_quantization.zero_points is NULL, expected zero points for UINT8 codes");
}

static void test_compute_mode(mfa_context_t context) {
    INVALID(c.desc.compute_mode = 2, "compute_mode is 2, not an MFA_COMPUTE_...");
    INVALID(c.desc.compute_mode = MFA_COMPUTE_INT8, "compute_mode is MFA_COMPUTE_INT8, but query_value is set");
    INVALID((c.desc.compute_mode = MFA_COMPUTE_INT8, WITHOUT(KEY_QUANTIZATION), T(key).precision = MFA_PRECISION_FP32),
            "compute_mode is MFA_COMPUTE_INT8, but key.precision is FP32, no codes");
    INVALID(
        (c.desc.compute_mode = MFA_COMPUTE_INT8, WITHOUT(VALUE_QUANTIZATION), T(value).precision = MFA_PRECISION_FP32),
        "compute_mode is MFA_COMPUTE_INT8, but value.precision is FP32, no codes");
    INVALID((c.desc.compute_mode = MFA_COMPUTE_INT8, ABSENT(query_value) = true,
             c.desc.intermediate_precision = MFA_PRECISION_FP32),
            "compute_mode is MFA_COMPUTE_INT8, which rounds softmax weights, but intermediate_precision is FP32");
}

static void test_shapes(mfa_context_t context) {
    INVALID(pack(&T(key_quantization.scales), 2, 2, 4, 1),
            "key_quantization.scales has shape (2, 2, 4, 1), expected (2, 2, 5, 1)");
    INVALID(pack(&T(key_quantization.scales), 2, 2, 5, 8), "key_quantization.scales has shape (2, 2, 5, 8)");
    INVALID(pack(&T(key_quantization.scales), 2, 4, 5, 1), "key_quantization.scales has shape (2, 4, 5, 1)");
    INVALID(pack(&T(value_quantization.scales), 3, 2, 3, 1), "value_quantization.scales has shape (3, 2, 3, 1)");
    INVALID(pack(&T(key_quantization.zero_points), 2, 2, 1, 1),
            "key_quantization.zero_points has shape (2, 2, 1, 1), expected (2, 2, 5, 1)");
    INVALID(pack(&T(key_quantization.mean), 2, 2, 1, 6),
            "key_quantization.mean has shape (2, 2, 1, 6), expected (2, 2");
    INVALID(pack(&T(key_quantization.mean), 2, 2, 5, 8), "key_quantization.mean has shape (2, 2, 5, 8)");
    FINE(pack(&T(key_quantization.mean), 1, 1, 1, 8));
    FINE((pack(&T(key_quantization.scales), 1, 1, 5, 1), pack(&T(key_quantization.zero_points), 1, 1, 5, 1)));
    /* Of the numbers of rows and columns that share one. */
    FINE((c.value_quantization.rows = 0, pack(&T(value_quantization.scales), 2, 1, 1, 1),
          pack(&T(value_quantization.zero_points), 2, 1, 1, 1)));
    FINE((c.value_quantization.rows = INT64_MAX, pack(&T(value_quantization.scales), 2, 2, 1, 1),
          pack(&T(value_quantization.zero_points), 2, 2, 1, 1)));
    FINE((c.value_quantization.columns = 1, c.value_quantization.rows = 0,
          pack(&T(value_quantization.scales), 1, 2, 1, 6), pack(&T(value_quantization.zero_points), 1, 2, 1, 6)));
    FINE(c.value_quantization.columns = INT64_MAX / 64 * 32);
    INVALID(c.value_quantization.columns = 1,
            "value_quantization.scales has shape (2, 2, 3, 1), expected (2, 2, 3, 6)");
}

static void test_scales(mfa_context_t context) {
#define SCALE(number) DATA(key_quantization.scales)[13] = (number)
#define IS(number) "key_quantization.scales[1, 0, 3, 0] is " number ", expected a positive finite number"
    INVALID(SCALE(0.0f), IS("0"));
    INVALID(SCALE(-0.0f), IS("-0"));
    INVALID(SCALE(-1.5f), IS("-1.5"));
    INVALID(SCALE(-0x1p-149f), IS("-1.4013e-45"));
    INVALID(SCALE(1 / 0.0f), IS("inf"));
    INVALID(SCALE(-1 / 0.0f), IS("-inf"));
    INVALID(SCALE(__builtin_nanf("")), IS("nan"));
    FINE(SCALE(0x1p-149f));
    FINE(SCALE(0x1.fffffep127f));
#undef SCALE
    INVALID(DATA(value_quantization.scales)[11] = -2,
            "value_quantization.scales[1, 1, 2, 0] is -2, expected a positive");
    INVALID(T(key_quantization.scales).precision = MFA_PRECISION_BF16, "key_quantization.scales.precision is BF16");
    INVALID(T(key_quantization.mean).precision = MFA_PRECISION_FP16, "key_quantization.mean.precision is FP16");
    /* The same in half precision. */
    uint16_t *const halves = (uint16_t *)(void *)DATA(key_quantization.scales);
#define HALVES(bits) \
    (memset(halves, 0x3c, 40), T(key_quantization.scales).precision = MFA_PRECISION_FP16, halves[13] = (bits))
    INVALID(HALVES(0), IS("0"));
    INVALID(HALVES(0x8000), IS("-0"));
    INVALID(HALVES(0x7c00), IS("inf"));
    INVALID(HALVES(0xfc00), IS("-inf"));
    INVALID(HALVES(0x7e00), IS("nan"));
    INVALID(HALVES(0xbe00), IS("-1.5"));
    INVALID(HALVES(0x8001), IS("-5.96046e-08"));
    FINE(HALVES(1));
    FINE(HALVES(0x7bff));
#undef HALVES
#undef IS
}

static void fill_scales(int count) {
    for (int i = 0; i < count; ++i)
        DATA(key_quantization.scales)[i] = 1;
}

/* An axis that is longer or shorter than the other, strides of every sign, and scales that repeat. */
static void test_strides(mfa_context_t context) {
#define PER_COLUMN                                                                  \
    (c.key_quantization.columns = 1, pack(&T(key_quantization.scales), 1, 1, 5, 8), \
     ABSENT(key_quantization.zero_points) = true)
    for (int i = 0; i < 40; ++i) {
        char text[80];
        snprintf(text, sizeof text, "key_quantization.scales[0, 0, %d, %d] is 0,", i / 8, i % 8);
        INVALID((PER_COLUMN, fill_scales(40), DATA(key_quantization.scales)[i] = 0), text);
        /* Columns first, backwards. */
        snprintf(text, sizeof text, "key_quantization.scales[0, 0, %d, %d] is 0,", 4 - i % 5, 7 - i / 5);
        INVALID((PER_COLUMN, fill_scales(40), DATA(key_quantization.scales)[i] = 0,
                 T(key_quantization.scales).stride[2] = -1, T(key_quantization.scales).stride[3] = -5,
                 T(key_quantization.scales).data = DATA(key_quantization.scales) + 39),
                text);
    }
#undef PER_COLUMN
    FINE((memset(T(key_quantization.scales).stride, 0, sizeof T(key_quantization.scales).stride),
          DATA(key_quantization.scales)[1] = 0));
    INVALID((memset(T(key_quantization.scales).stride, 0, sizeof T(key_quantization.scales).stride),
             DATA(key_quantization.scales)[0] = 0),
            "key_quantization.scales[0, 0, 0, 0] is 0");
    /* As many batches as there may be take no time if they are one. */
    call c = quantised(context, MFAI_FORWARD);
    for (int i = 0; i < MFAI_OPERANDS; ++i)
        if (c.tensors[i].shape[0] == 2) {
            c.tensors[i].shape[0] = INT64_C(1) << 48;
            c.tensors[i].stride[0] = 0;
        }
    T(query).shape[2] = T(query_value).shape[2] = T(out).shape[2] = T(logsumexp).shape[2] = 0;
    T(additive_mask).shape[2] = 0;
    CHECK(import(&c) == MFA_SUCCESS);
    T(key).shape[2] = T(value).shape[2] = T(bool_mask).shape[3] = 0;
    T(key_quantization.scales).shape[2] = T(key_quantization.zero_points).shape[2] = 0;
    T(value_quantization.scales).shape[2] = T(value_quantization.zero_points).shape[2] = 0;
    CHECK(import(&c) == MFA_SUCCESS);
}

static void test_zero_points(mfa_context_t context) {
#define ZEROS ((int8_t *)(void *)DATA(value_quantization.zero_points))
    INVALID(ZEROS[11] = -1, "value_quantization.zero_points[1, 1, 2, 0] is -1, expected 0 to 15");
    INVALID(ZEROS[4] = 16, "value_quantization.zero_points[0, 1, 1, 0] is 16, expected 0 to 15");
    FINE(ZEROS[4] = 15);
    INVALID((T(value).precision = MFA_PRECISION_INT4, ZEROS[0] = 8),
            "value_quantization.zero_points[0, 0, 0, 0] is 8, expected -8 to 7");
    INVALID((T(value_quantization.zero_points).precision = MFA_PRECISION_UINT8, ZEROS[0] = -1),
            "value_quantization.zero_points[0, 0, 0, 0] is 255, expected 0 to 15");
    FINE((T(key).precision = MFA_PRECISION_UINT8, T(key_quantization.zero_points).precision = MFA_PRECISION_UINT8,
          memset(&memory[number_of("key_quantization.zero_points")], 0xff, 20)));
#undef ZEROS
#define ZEROS (T(key_quantization.zero_points).precision = MFA_PRECISION_INT32, LIST(key_quantization.zero_points))
    INVALID(ZEROS[19] = 128, "key_quantization.zero_points[1, 1, 4, 0] is 128, expected -128 to 127");
    INVALID(ZEROS[19] = INT32_MIN, "key_quantization.zero_points[1, 1, 4, 0] is -2147483648, expected -128 to 127");
    FINE(ZEROS[19] = -128);
#undef ZEROS
    INVALID(T(key_quantization.zero_points).precision = MFA_PRECISION_UINT4,
            "key_quantization.zero_points.precision is UINT4");
    INVALID(T(key_quantization.zero_points).precision = MFA_PRECISION_FP32, "zero_points.precision is FP32");
}

/* Scales of rows that no sequence has may hold anything. `used` has a bit for each of `count`. */
static void expect_used(call (*make)(mfa_context_t, mfai_pass_t), mfa_context_t context, uint32_t keys, uint32_t values,
                        int count) {
    for (int i = 0; i < count; ++i) {
        call c = make(context, MFAI_FORWARD);
        DATA(key_quantization.scales)[i] = -1;
        CHECK((import(&c) == MFA_SUCCESS) == !(keys >> i & 1));
        c = make(context, MFAI_FORWARD);
        DATA(value_quantization.scales)[i] = -1;
        CHECK((import(&c) == MFA_SUCCESS) == !(values >> i & 1));
    }
}

static void test_rows_that_count(mfa_context_t context) {
    /* Bits by batch, head and row: five a head of keys, three of values. */
    expect_used(with_lengths, context, 0x3 | 0x3 << 5 | 0xe << 10 | 0xe << 15, 0x1 | 0x1 << 3 | 0x3 << 6 | 0x3 << 9,
                20);
    /* Two a head of keys, one of values; pages 1, 3 and 4. */
    expect_used(paged, context, 0xf << 4 | 0x5 << 12 | 0x5 << 16, 0x3 << 2 | 0x3 << 6 | 0x3 << 8, 24);
    expect_used(packed, context, 0x3ff, 0x3f, 10);
    INVALID_OF(packed(context, MFAI_FORWARD), DATA(key_quantization.scales)[8] = 0,
               "key_quantization.scales[0, 1, 3, 0] is 0");
    INVALID_OF(paged(context, MFAI_FORWARD), DATA(key_quantization.scales)[16] = 0,
               "key_quantization.scales[4, 0, 0, 0] is 0");
    /* A sequence without keys has no scales, and no page is asked for. */
    FINE_OF(paged(context, MFAI_FORWARD), (LIST(sequences.key_lengths)[0] = 0, LIST(pages.page_table)[0] = 99,
                                           DATA(key_quantization.scales)[16] = 0));
    FINE_OF(with_lengths(context, MFAI_FORWARD),
            (LIST(sequences.left_padding)[1] = 4, DATA(key_quantization.scales)[13] = 0));
    /* One scale for everything counts as soon as any row does. */
    call c = with_lengths(context, MFAI_FORWARD);
    c.key_quantization.rows = 0;
    pack(&T(key_quantization.scales), 1, 1, 1, 1);
    pack(&T(key_quantization.zero_points), 1, 1, 1, 1);
    CHECK(import(&c) == MFA_SUCCESS);
    DATA(key_quantization.scales)[0] = 0;
    CHECK_FAILS(import(&c), MFA_ERROR_INVALID_ARGS, "key_quantization.scales[0, 0, 0, 0] is 0");
    LIST(sequences.key_lengths)[0] = 0;
    CHECK_FAILS(import(&c), MFA_ERROR_INVALID_ARGS, "key_quantization.scales[0, 0, 0, 0] is 0");
    LIST(sequences.key_lengths)[1] = LIST(sequences.left_padding)[1] = 0;
    CHECK(import(&c) == MFA_SUCCESS);
    /* Batches that are named. */
    c = with_lengths(context, MFAI_FORWARD);
    ABSENT(sequences.key_batches) = false;
    FILL(sequences.key_batches, {1, 1});
    DATA(key_quantization.scales)[0] = 0;
    CHECK(import(&c) == MFA_SUCCESS);
    DATA(key_quantization.scales)[11] = 0;
    CHECK_FAILS(import(&c), MFA_ERROR_INVALID_ARGS, "key_quantization.scales[1, 0, 1, 0] is 0");
}

static bool is_scale(const mfai_quantization_t *q, int64_t b, int64_t h, int64_t row, int64_t expected) {
    return mfai_scale_find(q, &q->scales, b, h, row) == q->scales.data + 4 * expected;
}

static void test_places(mfa_context_t context) {
    call c = with_lengths(context, MFAI_FORWARD);
    CHECK(import(&c) == MFA_SUCCESS);
    CHECK(is_scale(&problem.key_quantization, 0, 1, 1, 6) && is_scale(&problem.key_quantization, 1, 0, 2, 13));
    CHECK(is_scale(&problem.value_quantization, 1, 1, 0, 9) && is_scale(&problem.value_quantization, 1, 1, 1, 10));
    c = paged(context, MFAI_FORWARD);
    CHECK(import(&c) == MFA_SUCCESS);
    CHECK(is_scale(&problem.key_quantization, 0, 0, 0, 16) && is_scale(&problem.key_quantization, 1, 1, 2, 14));
    CHECK(is_scale(&problem.value_quantization, 1, 1, 1, 3) && is_scale(&problem.value_quantization, 1, 1, 2, 7));
    c = packed(context, MFAI_FORWARD);
    CHECK(import(&c) == MFA_SUCCESS && is_scale(&problem.value_quantization, 1, 1, 2, 5));
}

static void test_append(mfa_context_t context) {
    call c = appended(context, MFAI_FORWARD);
    CHECK(import(&c) == MFA_SUCCESS);
    CHECK(mfai_operand_use(&mfai_operands[number_of("key_quantization.scales")], &problem) == MFAI_UPDATE);
    CHECK(mfai_operand_use(&mfai_operands[number_of("value_quantization.zero_points")], &problem) == MFAI_UPDATE);
    CHECK(mfai_operand_use(&mfai_operands[number_of("key_quantization.mean")], &problem) == MFAI_READ);
#define REFUSED(change, fragment) INVALID_OF(appended(context, MFAI_FORWARD), change, fragment)
    REFUSED(T(append.key).precision = MFA_PRECISION_FP16, "append.key.precision is FP16, expected query's, FP32");
    REFUSED(T(append.value).precision = MFA_PRECISION_INT8, "append.value.precision is INT8");
    REFUSED(c.key_quantization.rows = 32,
            "key_quantization.rows is 32, expected 0 or 1: new rows would change the scale of those before them");
    REFUSED(pack(&T(key_quantization.scales), 1, 2, 5, 1),
            "key_quantization.scales has shape (1, 2, ...), expected (2, 2, ...): new rows write theirs");
    REFUSED(pack(&T(value_quantization.scales), 2, 1, 5, 1),
            "value_quantization.scales has shape (2, 1, ...), expected (2, 2, ...): new rows write theirs");
    REFUSED(T(key_quantization.scales).stride[1] = 0, "key_quantization.scales: stride 0 of dimension 1");
    REFUSED(T(key).stride[2] = 4, "key: stride 4 of dimension 2");
#undef REFUSED
    /* Scales that are written need not hold anything; one that serves old and new rows does. */
    FINE_OF(appended(context, MFAI_FORWARD), DATA(key_quantization.scales)[0] = DATA(key_quantization.scales)[1] = 0);
    c = appended(context, MFAI_FORWARD);
    c.key_quantization.rows = 0;
    pack(&T(key_quantization.scales), 1, 1, 1, 1);
    pack(&T(key_quantization.zero_points), 1, 1, 1, 1);
    CHECK(import(&c) == MFA_SUCCESS);
    CHECK(mfai_operand_use(&mfai_operands[number_of("key_quantization.scales")], &problem) == MFAI_READ_ALWAYS);
    DATA(key_quantization.scales)[0] = 0;
    CHECK_FAILS(import(&c), MFA_ERROR_INVALID_ARGS, "key_quantization.scales[0, 0, 0, 0] is 0");
    pack(&T(append.key), 2, 2, 0, 8);
    pack(&T(append.value), 2, 2, 0, 6);
    CHECK(import(&c) == MFA_SUCCESS); /* no row, no scale */
}

/* Of so many rows that several threads check them, in pieces: the first that is wrong is named, before anything is
   written, and a plan does not look. */
static void test_pieces(void) {
    enum { HEADS = 2, ROWS = 9000, COUNT = HEADS * ROWS };
    static int8_t codes[COUNT];
    static float scales[2][COUNT], query[HEADS], out[HEADS];
    mfa_context_options_t options = MFA_CONTEXT_OPTIONS_INIT;
    options.backend = MFA_BACKEND_CPU;
    options.num_threads = 3;
    mfa_context_t context = NULL;
    CHECK(mfa_create_context_with_options(&options, &context) == MFA_SUCCESS);
    mfa_tensor_t tensors[5]; /* query, out, codes, scales of keys and of values */
    void *const data[] = {query, out, codes, scales[0], scales[1]};
    for (int i = 0; i < 5; ++i) {
        tensors[i] = (mfa_tensor_t)MFA_TENSOR_INIT;
        tensors[i].data = data[i];
        pack(&tensors[i], 1, HEADS, i < 2 ? 1 : ROWS, 1);
    }
    tensors[2].precision = MFA_PRECISION_INT8;
    mfa_quantization_t quantizations[2];
    for (int i = 0; i < 2; ++i) {
        quantizations[i] = (mfa_quantization_t)MFA_QUANTIZATION_INIT;
        quantizations[i].rows = 1;
        quantizations[i].scales = &tensors[3 + i];
        for (int j = 0; j < COUNT; ++j)
            scales[i][j] = 1;
    }
    mfa_attention_desc_t desc = MFA_ATTENTION_DESC_INIT;
    desc.query = &tensors[0], desc.out = &tensors[1];
    desc.key = desc.value = &tensors[2];
    desc.key_quantization = &quantizations[0], desc.value_quantization = &quantizations[1];
    static const struct {
        int values, at;
        const char *text;
    } wrong[] = {{1, COUNT - 1, "value_quantization.scales[0, 1, 8999, 0] is -1"},
                 {1, 4096, "value_quantization.scales[0, 0, 4096, 0] is -1"},
                 {0, ROWS + 8191, "key_quantization.scales[0, 1, 8191, 0] is -1"},
                 {0, ROWS - 1, "key_quantization.scales[0, 0, 8999, 0] is -1"},
                 {0, 4095, "key_quantization.scales[0, 0, 4095, 0] is -1"}};
    mfa_plan_t plan = MFA_PLAN_INIT;
    CHECK(mfa_attention_forward_desc(context, &desc) == MFA_SUCCESS && out[0] == 0);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; ++i) {
        scales[wrong[i].values][wrong[i].at] = -1;
        out[0] = 7;
        CHECK(mfa_attention_forward_plan(context, &desc, &plan) == MFA_SUCCESS && plan.status == MFA_SUCCESS);
        CHECK_FAILS(mfa_attention_forward_desc(context, &desc), MFA_ERROR_INVALID_ARGS, wrong[i].text);
        CHECK(out[0] == 7);
    }
    mfa_destroy_context(context);
}

int main(void) {
    mfa_context_t context = NULL;
    CHECK(mfa_create_context(&context) == MFA_SUCCESS);
    test_what_it_comes_to(context);
    test_zero_clipped(context);
    test_struct(context);
    test_formats(context);
    test_compute_mode(context);
    test_shapes(context);
    test_scales(context);
    test_strides(context);
    test_zero_points(context);
    test_rows_that_count(context);
    test_places(context);
    test_append(context);
    test_pieces();
    test_each_operand(quantised, context, MFAI_FORWARD);
    test_each_operand(quantised, context, MFAI_BACKWARD);
    test_each_operand(with_lengths, context, MFAI_FORWARD);
    test_each_operand(appended, context, MFAI_FORWARD);
    mfa_destroy_context(context);
    return check_report();
}
