/* New rows for a cache: every way in which they can be wrong, and what they come to. */
#include "attn/rows.h"
#include "described.h"

enum {
    WITH_APPEND = 1 << MFAI_DESC_SEQUENCES | 1 << MFAI_DESC_APPEND,
    WITH_PAGES = WITH_APPEND | 1 << MFAI_DESC_PAGES
};

/* Two new rows behind the 3 and 2 of a cache of 5, or packed, 1 and 2; tables have 16 positions. */
static call appended(mfa_context_t context, mfai_pass_t pass) {
    call c = good(context, pass, WITH_APPEND);
    ABSENT(sequences.query_starts) = ABSENT(sequences.key_starts) = ABSENT(sequences.key_batches) = true;
    ABSENT(append.starts) = true;
    FILL(sequences.query_lengths, {3, 2});
    FILL(sequences.key_lengths, {3, 2});
    FILL(sequences.left_padding, {1, 0});
    FILL(append.rotary_positions, {13, 0});
    return c;
}

static call packed(mfa_context_t context, mfai_pass_t pass) {
    call c = appended(context, pass);
    ABSENT(append.starts) = ABSENT(append.rotary_positions) = false;
    FILL(append.starts, {0, 1, 3});
    pack(&T(append.key), 1, 2, 4, 8);
    pack(&T(append.value), 1, 2, 4, 6);
    return c;
}

/* The cache of 5 rows is one of six. */
static call picked(mfa_context_t context, mfai_pass_t pass) {
    call c = appended(context, pass);
    ABSENT(sequences.key_batches) = false;
    FILL(sequences.key_batches, {5, 0});
    pack(&T(key), 6, 2, 5, 8);
    pack(&T(value), 6, 2, 5, 6);
    return c;
}

/* Six pages of two rows, three a sequence: new rows are written to the second and third, and the second. */
static call paged(mfa_context_t context, mfai_pass_t pass) {
    call c = good(context, pass, WITH_PAGES);
    ABSENT(sequences.query_starts) = ABSENT(sequences.key_starts) = ABSENT(sequences.key_batches) = true;
    ABSENT(append.starts) = true;
    FILL(sequences.query_lengths, {3, 2});
    FILL(sequences.key_lengths, {3, 2});
    FILL(sequences.left_padding, {0, 0});
    FILL(append.rotary_positions, {0, 0});
    FILL(pages.page_table, {4, 5, 0, 3, 1, 99});
    pack(&T(key), 6, 2, 2, 8);
    pack(&T(value), 6, 2, 2, 6);
    return c;
}

#define INVALID(change, fragment) INVALID_OF(appended(context, MFAI_FORWARD), change, fragment)
#define FINE(change) FINE_OF(appended(context, MFAI_FORWARD), change)

static bool is_row(const mfai_view_t *view, int64_t b, int64_t row, int64_t batch, int64_t at) {
    const int64_t element = batch * view->stride[0] + view->stride[1] + at * view->stride[2];
    return mfai_view_row(view, b, 1, row) == view->data + element * mfai_view_element(view);
}

static bool has_new(int64_t b, int64_t keys, int64_t first, int64_t count, int64_t rotary) {
    const mfai_length_t *length = &problem.lengths[b];
    return length->keys == keys && length->new_first == first && length->new == count && length->rotary == rotary;
}

static void test_what_it_comes_to(mfa_context_t context) {
    call c = appended(context, MFAI_FORWARD);
    CHECK(import(&c) == MFA_SUCCESS && problem.features & MFAI_APPEND && problem.features & MFAI_ROTARY);
    CHECK(has_new(0, 4, 2, 2, 13) && has_new(1, 4, 2, 2, 0) && !problem.is_interleaved);
    CHECK(is_row(&problem.key, 0, 2, 0, 3) && is_row(&problem.new_value, 1, 1, 1, 1));
    ABSENT(append.rotary_positions) = true;
    c.append.flags = MFA_APPEND_INTERLEAVED;
    CHECK(import(&c) == MFA_SUCCESS && has_new(0, 4, 2, 2, 3) && has_new(1, 4, 2, 2, 2) && problem.is_interleaved);
    ABSENT(append.rotary_cos) = ABSENT(append.rotary_sin) = true;
    CHECK(import(&c) == MFA_SUCCESS && !(problem.features & MFAI_ROTARY));
    c = packed(context, MFAI_FORWARD);
    CHECK(import(&c) == MFA_SUCCESS && has_new(0, 3, 2, 1, 13) && has_new(1, 4, 2, 2, 0));
    CHECK(is_row(&problem.new_key, 1, 1, 0, 2));
    c = picked(context, MFAI_FORWARD);
    CHECK(import(&c) == MFA_SUCCESS && is_row(&problem.key, 0, 2, 5, 3));
    c = paged(context, MFAI_FORWARD);
    CHECK(import(&c) == MFA_SUCCESS && is_row(&problem.value, 0, 4, 0, 0) && is_row(&problem.key, 1, 2, 1, 0));
}

static void test_operands(mfa_context_t context) {
    INVALID(ABSENT(sequences.key_lengths) = true, "append is set, but sequences.key_lengths is NULL");
    INVALID(c.parts &= ~(1u << MFAI_DESC_SEQUENCES), "append is set, but sequences.key_lengths is NULL");
    INVALID(ABSENT(append.value) = true, "append.value is NULL");
    INVALID(T(append.key).precision = MFA_PRECISION_FP16, "append.key.precision is FP16, expected key's, FP32");
    INVALID(T(append.value).precision = MFA_PRECISION_BF16, "append.value.precision is BF16, expected value's, FP32");
    INVALID(pack(&T(append.key), 1, 2, 2, 8), "append.key has shape (1, 2, 2, 8), expected (2, 2, 2, 8)");
    INVALID(pack(&T(append.key), 2, 4, 2, 8), "append.key has shape (2, 4, 2, 8), expected (2, 2, 2, 8)");
    INVALID(pack(&T(append.value), 2, 2, 1, 6), "append.value has shape (2, 2, 1, 6), expected (2, 2, 2, 6)");
    INVALID_OF(packed(context, MFAI_FORWARD), pack(&T(append.key), 2, 2, 4, 8),
               "append.key has shape (2, 2, 4, 8), expected (1, 2, 4, 8)");
    INVALID_OF(packed(context, MFAI_FORWARD), pack(&T(append.starts), 1, 1, 1, 2),
               "append.starts has shape (1, 1, 1, 2), expected (1, 1, 1, 3)");
    INVALID_OF(packed(context, MFAI_FORWARD), LIST(append.starts)[2] = 5, "append.starts[2] is 5, expected at most 4");
    INVALID(c.append.flags = 6, "append.flags is 0x6, which has bits this library does not know");
    INVALID(c.append.struct_size = 16, "append.struct_size is 16");
    /* The cache is an output. */
    INVALID(T(key).stride[2] = 0, "key: stride 0 of dimension 2");
    INVALID(T(value).data = DATA(key), "key overlaps value");
    INVALID(T(append.key).data = DATA(key), "key overlaps append.key");
    INVALID((T(query).data = DATA(key)), "key overlaps query");
}

static void test_full_cache(mfa_context_t context) {
    INVALID(
        LIST(sequences.key_lengths)[1] = 4,
        "append.key has 2 rows for sequence 1, whose cache has room for 1 behind the 4 of sequences.key_lengths[1]");
    INVALID(LIST(sequences.key_lengths)[0] = 6, "sequences.key_lengths[0] is 6, expected 0 to 5");
    INVALID_OF(packed(context, MFAI_FORWARD), LIST(sequences.key_lengths)[0] = 5,
               "append.key has 1 rows for sequence 0");
    FINE_OF(packed(context, MFAI_FORWARD),
            (LIST(append.starts)[1] = 0, LIST(sequences.key_lengths)[0] = 5, LIST(append.starts)[2] = 1));
    INVALID_OF(paged(context, MFAI_FORWARD), LIST(sequences.key_lengths)[0] = 5,
               "append.key has 2 rows for sequence 0, whose cache has room for 1");
    INVALID_OF(paged(context, MFAI_FORWARD), LIST(sequences.key_lengths)[1] = 3,
               "pages.page_table[1, 2] is 99, expected 0 to 5");
}

static void test_rotary(mfa_context_t context) {
    INVALID(ABSENT(append.rotary_sin) = true, "append.rotary_cos is set, but append.rotary_sin is NULL");
    INVALID((ABSENT(append.rotary_cos) = ABSENT(append.rotary_sin) = true),
            "append.rotary_positions is set, but append.rotary_cos is NULL");
    INVALID(ABSENT(append.rotary_cos) = true, "append.rotary_sin is set, but append.rotary_cos is NULL");
    INVALID(pack(&T(append.rotary_sin), 1, 1, 15, 3), "append.rotary_sin has shape (1, 1, 15, 3), expected (1, 1, 16");
    INVALID(pack(&T(append.rotary_cos), 2, 1, 16, 3), "append.rotary_cos has shape (2, 1, 16, 3), expected (1, 1, 16");
    INVALID((pack(&T(append.rotary_cos), 1, 1, 16, 5), pack(&T(append.rotary_sin), 1, 1, 16, 5)),
            "append.rotary_cos has 5 columns, expected 1 to 4");
    INVALID((pack(&T(append.rotary_cos), 1, 1, 16, 0), pack(&T(append.rotary_sin), 1, 1, 16, 0)),
            "append.rotary_cos has 0 columns, expected 1 to 4");
    INVALID(T(append.rotary_cos).precision = MFA_PRECISION_FP16, "append.rotary_cos.precision is FP16, expected FP32");
    INVALID(T(append.rotary_sin).precision = MFA_PRECISION_BF16, "append.rotary_sin.precision is BF16, expected FP32");
    INVALID(LIST(append.rotary_positions)[1] = -1, "append.rotary_positions[1] is -1, expected 0 to 2147483647");
    /* New keys stand at 14 and 15; queries at 14, or to 16 if they are in order. */
    FINE(LIST(append.rotary_positions)[0] = 14);
    INVALID(LIST(append.rotary_positions)[0] = 15,
            "append.rotary_cos has 16 positions, but sequence 0 has rows at 15 to 16");
    INVALID((LIST(append.rotary_positions)[0] = 14, c.desc.window_right = 100),
            "append.rotary_cos has 16 positions, but sequence 0 has rows at 14 to 16");
    INVALID((LIST(append.rotary_positions)[0] = 14, c.desc.flags = MFA_ATTENTION_CAUSAL), "sequence 0 has rows at 14");
    INVALID((LIST(append.rotary_positions)[0] = 14, c.desc.chunk = INT64_MAX), "sequence 0 has rows at 14 to 16");
    INVALID(LIST(append.rotary_positions)[1] = INT32_MAX, "sequence 1 has rows at 2147483647 to 2147483648");
    /* Where there are no rows there is no position. */
    FINE((pack(&T(append.key), 2, 2, 0, 8), pack(&T(append.value), 2, 2, 0, 6),
          LIST(append.rotary_positions)[1] = INT32_MAX, LIST(sequences.query_lengths)[1] = 0));
    INVALID((ABSENT(append.rotary_positions) = true, pack(&T(append.rotary_cos), 1, 1, 4, 3),
             pack(&T(append.rotary_sin), 1, 1, 4, 3)),
            "append.rotary_cos has 4 positions, but sequence 0 has rows at 3 to 4");
}

static void test_sharing(mfa_context_t context) {
    INVALID_OF(picked(context, MFAI_FORWARD), LIST(sequences.key_batches)[0] = 0,
               "sequences.key_batches[1] is 0, as [0] is, expected each batch once if new rows are written to it");
    FINE_OF(picked(context, MFAI_FORWARD),
            (LIST(sequences.key_batches)[0] = 0, pack(&T(append.key), 2, 2, 0, 8), pack(&T(append.value), 2, 2, 0, 6)));
    /* The first pages are only read. */
    FINE_OF(paged(context, MFAI_FORWARD), LIST(pages.page_table)[3] = 4);
    INVALID_OF(paged(context, MFAI_FORWARD), LIST(pages.page_table)[4] = 5,
               "pages.page_table[1, 1] is 5, as [0, 1] is, expected each page once if new rows are written to it");
    INVALID_OF(paged(context, MFAI_FORWARD), LIST(pages.page_table)[3] = 0,
               "pages.page_table[1, 0] is 0, as [0, 2] is, expected each page once");
    INVALID_OF(paged(context, MFAI_FORWARD), LIST(pages.page_table)[0] = 1,
               "pages.page_table[0, 0] is 1, as [1, 1] is, expected each page once");
    INVALID_OF(paged(context, MFAI_FORWARD), LIST(pages.page_table)[2] = 5,
               "pages.page_table[0, 2] is 5, as [0, 1] is, expected each page once");
    INVALID_OF(paged(context, MFAI_FORWARD), LIST(pages.page_table)[0] = 5,
               "pages.page_table[0, 0] is 5, as [0, 1] is, expected each page once");
    FINE_OF(paged(context, MFAI_FORWARD), LIST(pages.page_table)[5] = 5); /* no row reaches it */
}

int main(void) {
    mfa_context_t context = NULL;
    CHECK(mfa_create_context(&context) == MFA_SUCCESS);
    test_what_it_comes_to(context);
    test_operands(context);
    test_full_cache(context);
    test_rotary(context);
    test_sharing(context);
    test_each_operand(appended, context, MFAI_FORWARD);
    test_each_operand(packed, context, MFAI_FORWARD);
    test_each_operand(picked, context, MFAI_FORWARD);
    test_each_operand(paged, context, MFAI_FORWARD);
    mfa_destroy_context(context);
    return check_report();
}
