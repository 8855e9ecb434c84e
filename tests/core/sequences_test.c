/* Sequences and pages: every way in which their lists can be wrong, and what they come to. */
#include "attn/rows.h"
#include "core/buffer.h"
#include "described.h"

enum { WITH_LISTS = 1 << MFAI_DESC_SEQUENCES, WITH_PAGES = WITH_LISTS | 1 << MFAI_DESC_PAGES };

/* A cache of four batches; lengths are within Nq = 3 and Nkv = 5. */
static call cached(mfa_context_t context, mfai_pass_t pass) {
    call c = good(context, pass, WITH_LISTS);
    ABSENT(sequences.query_starts) = ABSENT(sequences.key_starts) = true;
    FILL(sequences.query_lengths, {3, 2});
    FILL(sequences.key_lengths, {5, 3});
    FILL(sequences.left_padding, {1, 0});
    FILL(sequences.key_batches, {3, 0});
    for (int i = 0; i < MFAI_OPERANDS; ++i)
        if (strcmp(mfai_operands[i].name, "key") == 0 || strcmp(mfai_operands[i].name, "value") == 0 ||
            strcmp(mfai_operands[i].name, "dkey") == 0 || strcmp(mfai_operands[i].name, "dvalue") == 0)
            c.tensors[i].shape[0] = 4;
    return c;
}

/* Five queries and nine keys, of which the sequences have 2 and 3, 4 and 5. */
static call packed(mfa_context_t context, mfai_pass_t pass) {
    call c = good(context, pass, WITH_LISTS);
    ABSENT(sequences.query_lengths) = ABSENT(sequences.key_lengths) = true;
    ABSENT(sequences.left_padding) = ABSENT(sequences.key_batches) = true;
    FILL(sequences.query_starts, {0, 2, 5});
    FILL(sequences.key_starts, {0, 4, 9});
    for (int i = 0; i < MFAI_OPERANDS; ++i) {
        const mfai_operand_t *operand = &mfai_operands[i];
        const uint8_t *shape = mfai_operands[operand->like ? number_of(operand->like) : i].shape;
        if (shape[0] == MFAI_QUERY_BATCH)
            pack(&c.tensors[i], 1, 4, 5, c.tensors[i].shape[3]);
        if (shape[0] == MFAI_KEY_BATCH)
            pack(&c.tensors[i], 1, 2, 9, c.tensors[i].shape[3]);
    }
    return c;
}

/* Six pages of two rows, three a sequence. */
static call paged(mfa_context_t context, mfai_pass_t pass) {
    call c = good(context, pass, WITH_PAGES);
    ABSENT(sequences.query_starts) = ABSENT(sequences.key_starts) = ABSENT(sequences.key_batches) = true;
    FILL(sequences.query_lengths, {3, 2});
    FILL(sequences.key_lengths, {5, 3});
    FILL(sequences.left_padding, {2, 0});
    FILL(pages.page_table, {-7, 5, 0, 3, 1, 99});
    for (int i = 0; i < MFAI_OPERANDS; ++i) {
        const mfai_operand_t *operand = &mfai_operands[i];
        if (mfai_operands[operand->like ? number_of(operand->like) : i].shape[0] == MFAI_KEY_BATCH)
            pack(&c.tensors[i], 6, 2, 2, c.tensors[i].shape[3]);
    }
    c.sequences.most_keys = 5; /* as the masks have it */
    return c;
}

#define CACHED(change, fragment) INVALID_OF(cached(context, MFAI_FORWARD), change, fragment)
#define PACKED(change, fragment) INVALID_OF(packed(context, MFAI_FORWARD), change, fragment)
#define PAGED(change, fragment) INVALID_OF(paged(context, MFAI_FORWARD), change, fragment)

static bool is_row(const mfai_view_t *view, int64_t b, int64_t row, int64_t batch, int64_t at) {
    const int64_t element = batch * view->stride[0] + view->stride[1] + at * view->stride[2];
    return mfai_view_row(view, b, 1, row) == view->data + element * mfai_view_element(view);
}

static bool has_length(int64_t b, int64_t queries, int64_t keys) {
    return problem.lengths[b].queries == queries && problem.lengths[b].keys == keys;
}

static void test_what_lists_come_to(mfa_context_t context) {
    call c = cached(context, MFAI_FORWARD);
    CHECK(import(&c) == MFA_SUCCESS);
    CHECK(problem.features & MFAI_SEQUENCES && !(problem.features & (MFAI_PAGES | MFAI_APPEND)));
    CHECK(problem.batch == 2 && problem.query_count == 3 && problem.key_count == 5);
    CHECK(has_length(0, 3, 4) && has_length(1, 2, 3) && problem.lengths[0].new == 0);
    CHECK(is_row(&problem.key, 0, 0, 3, 1) && is_row(&problem.value, 1, 2, 0, 2) && is_row(&problem.out, 1, 1, 1, 1));

    c = packed(context, MFAI_BACKWARD);
    CHECK(import(&c) == MFA_SUCCESS);
    CHECK(problem.batch == 2 && problem.query_count == 3 && problem.key_count == 5);
    CHECK(has_length(0, 2, 4) && has_length(1, 3, 5));
    CHECK(is_row(&problem.query, 1, 0, 0, 2) && is_row(&problem.dout, 1, 2, 0, 4) &&
          is_row(&problem.dvalue, 1, 4, 0, 8) && is_row(&problem.logsumexp, 0, 1, 0, 1));

    c = paged(context, MFAI_FORWARD);
    CHECK(import(&c) == MFA_SUCCESS && problem.features & MFAI_PAGES);
    CHECK(problem.query_count == 3 && problem.key_count == 5 && has_length(0, 3, 3) && has_length(1, 2, 3));
    CHECK(is_row(&problem.key, 0, 0, 5, 0) && is_row(&problem.key, 0, 2, 0, 0) && is_row(&problem.value, 1, 2, 1, 0));

    c = good(context, MFAI_FORWARD, WITH_LISTS);
    for (int i = 0; i < MFAI_OPERANDS; ++i)
        c.absent[i] |= mfai_operands[i].described_by == MFAI_DESC_SEQUENCES;
    CHECK(import(&c) == MFA_SUCCESS && has_length(0, 3, 5) && has_length(1, 3, 5));
}

/* Masks have the sizes of the longest sequence where rows are packed or in pages, and the operands' where not. */
static void test_most(mfa_context_t context) {
    call c = paged(context, MFAI_FORWARD);
    c.sequences.most_keys = 0;
    ABSENT(bool_mask) = true;
    CHECK(import(&c) == MFA_SUCCESS && problem.key_count == 3);
    c.sequences.most_keys = 100;
    c.sequences.most_queries = 50;
    CHECK_FAILS(import(&c), MFA_ERROR_INVALID_ARGS, "additive_mask has shape (2, 1, 3, 1), expected (2, 4, 50, 100)");
    ABSENT(additive_mask) = true;
    CHECK(import(&c) == MFA_SUCCESS && problem.key_count == 100 && problem.query_count == 50);
    /* A cache may have more rows than any sequence. */
    c = cached(context, MFAI_FORWARD);
    c.sequences.most_keys = 4;
    ABSENT(bool_mask) = true;
    CHECK(import(&c) == MFA_SUCCESS && problem.key_count == 4);
    CACHED(c.sequences.most_keys = 3, "sequences.most_keys is 3, but sequence 0 has 4 rows");
    PACKED(c.sequences.most_queries = 2, "sequences.most_queries is 2, but sequence 1 has 3 rows");
    CACHED(c.sequences.most_keys = -1, "sequences.most_keys is -1, expected 0 or more");
    CACHED(c.sequences.most_queries = INT64_MIN, "sequences.most_queries is -9223372036854775808");
    CACHED(c.sequences.most_keys = INT64_MAX, "key has 9223372036854775807 rows, expected at most");
    CACHED(c.sequences.most_queries = INT64_MAX, "query has 9223372036854775807 rows, expected at most");
}

static void test_refused_lists(mfa_context_t context) {
    PACKED(LIST(sequences.query_starts)[0] = 1, "sequences.query_starts[0] is 1, expected 0");
    PACKED(LIST(sequences.query_starts)[0] = -1, "sequences.query_starts[0] is -1, expected 0");
    PACKED(LIST(sequences.query_starts)[1] = -1,
           "sequences.query_starts[1] is -1, expected at least 0, the one before");
    PACKED(LIST(sequences.query_starts)[2] = 1, "sequences.query_starts[2] is 1, expected at least 2, the one before");
    PACKED(LIST(sequences.query_starts)[2] = 6,
           "sequences.query_starts[2] is 6, expected at most 5, the rows that are");
    PACKED(LIST(sequences.key_starts)[2] = INT32_MIN, "sequences.key_starts[2] is -2147483648, expected at least 4");
    PACKED(LIST(sequences.key_starts)[2] = INT32_MAX, "sequences.key_starts[2] is 2147483647, expected at most 9");
    CACHED(LIST(sequences.query_lengths)[1] = -1, "sequences.query_lengths[1] is -1, expected 0 to 3, the sequence's");
    CACHED(LIST(sequences.query_lengths)[0] = 4, "sequences.query_lengths[0] is 4, expected 0 to 3");
    CACHED(LIST(sequences.key_lengths)[1] = 6, "sequences.key_lengths[1] is 6, expected 0 to 5");
    CACHED(LIST(sequences.key_lengths)[0] = INT32_MIN, "sequences.key_lengths[0] is -2147483648");
    CACHED(LIST(sequences.left_padding)[1] = 4, "sequences.left_padding[1] is 4, expected 0 to 3, the sequence's keys");
    CACHED(LIST(sequences.left_padding)[0] = -1, "sequences.left_padding[0] is -1, expected 0 to 5");
    CACHED(LIST(sequences.key_batches)[1] = 4, "sequences.key_batches[1] is 4, expected 0 to 3, a batch of key");
    CACHED(LIST(sequences.key_batches)[1] = -1, "sequences.key_batches[1] is -1, expected 0 to 3");
    PAGED(LIST(sequences.key_lengths)[0] = 7, "sequences.key_lengths[0] is 7, expected 0 to 6");
    PAGED(LIST(pages.page_table)[1] = 6, "pages.page_table[0, 1] is 6, expected 0 to 5, a page of key");
    PAGED(LIST(pages.page_table)[4] = -1, "pages.page_table[1, 1] is -1, expected 0 to 5");
    PAGED(LIST(sequences.key_lengths)[1] = 5, "pages.page_table[1, 2] is 99, expected 0 to 5");
}

static void test_refused_operands(mfa_context_t context) {
    PACKED(pack(&T(sequences.query_starts), 1, 1, 1, 0), "sequences.query_starts is empty");
    PACKED(pack(&T(sequences.query_starts), 1, 1, 1, 5), "sequences.key_starts has shape (1, 1, 1, 3), expected (1, 1");
    PACKED(pack(&T(sequences.query_starts), 2, 1, 1, 3), "sequences.query_starts has shape (2, 1, 1, 3)");
    PACKED(pack(&T(query), 2, 4, 5, 8), "query has shape (2, 4, 5, 8), expected (1, 4, 5, 8)");
    PACKED(pack(&T(key), 2, 2, 9, 8), "key has shape (2, 2, 9, 8), expected (1, 2, 9, 8)");
    PACKED(pack(&T(out), 1, 4, 6, 6), "out has shape (1, 4, 6, 6), expected (1, 4, 5, 6)");
    /* The sizes of a list are right before any entry of it is read. */
    CACHED(pack(&T(sequences.key_lengths), 1, 1, 1, 1), "sequences.key_lengths has shape (1, 1, 1, 1)");
    CACHED((pack(&T(sequences.query_lengths), 1, 1, 1, 0), T(sequences.query_lengths).data = NULL),
           "sequences.query_lengths has shape (1, 1, 1, 0)");
    CACHED(T(sequences.query_lengths).precision = MFA_PRECISION_FP32, "sequences.query_lengths.precision is FP32");
    PAGED(pack(&T(pages.page_table), 1, 1, 3, 3), "pages.page_table has shape (1, 1, 3, 3), expected (1, 1, 2, 3)");
    PAGED(ABSENT(pages.page_table) = true, "pages.page_table is NULL");
    PAGED((pack(&T(key), 6, 2, 0, 8), pack(&T(value), 6, 2, 0, 6)), "key has pages of 0 rows, expected 1 or more");
    PAGED(pack(&T(value), 5, 2, 2, 6), "value has shape (5, 2, 2, 6), expected (6, 2, 2, 6)");
    CACHED(pack(&T(value), 3, 2, 5, 6), "value has shape (3, 2, 5, 6), expected (4, 2, 5, 6)");
    CACHED(c.sequences.reserved = 1, "sequences.reserved is 1");
    CACHED(c.sequences.struct_size = 8, "sequences.struct_size is 8");
    PAGED(c.pages.reserved = 1, "pages.reserved is 1");
    CACHED((ABSENT(sequences.key_starts) = false), "sequences.key_starts is set beside sequences.key_batches");
    PAGED((ABSENT(sequences.key_starts) = false), "sequences.key_starts is set beside pages");
    PAGED((ABSENT(sequences.key_batches) = false), "sequences.key_batches is set beside pages");
    /* Rows of a page times pages, where rows and pages repeat. */
    const int64_t huge = INT64_C(1) << 40;
    call c = paged(context, MFAI_FORWARD);
    ABSENT(sequences.key_lengths) = ABSENT(sequences.left_padding) = true;
    T(key).shape[2] = T(value).shape[2] = T(pages.page_table).shape[3] = huge;
    T(key).stride[2] = T(value).stride[2] = T(pages.page_table).stride[3] = 0;
    CHECK_FAILS(import(&c), MFA_ERROR_INVALID_ARGS,
                "pages.page_table has 1099511627776 pages of 1099511627776 rows for a sequence, which overflows");
}

/* In a backward call a gradient has one owner. */
static void test_sharing(mfa_context_t context) {
    FINE_OF(cached(context, MFAI_FORWARD), LIST(sequences.key_batches)[0] = 0);
    INVALID_OF(cached(context, MFAI_BACKWARD), LIST(sequences.key_batches)[0] = 0,
               "sequences.key_batches[1] is 0, as [0] is, expected each batch once in a backward call");
    FINE_OF(cached(context, MFAI_BACKWARD),
            LIST(sequences.key_batches)[0] = LIST(sequences.key_lengths)[1] = 0); /* no rows, no gradients */
    FINE_OF(paged(context, MFAI_BACKWARD), (void)0);
    FINE_OF(paged(context, MFAI_FORWARD), LIST(pages.page_table)[3] = 5);
    INVALID_OF(paged(context, MFAI_BACKWARD), LIST(pages.page_table)[3] = 5,
               "pages.page_table[1, 0] is 5, as [0, 1] is, expected each page once in a backward call");
    INVALID_OF(paged(context, MFAI_BACKWARD), LIST(pages.page_table)[2] = 5,
               "pages.page_table[0, 2] is 5, as [0, 1] is");
    FINE_OF(paged(context, MFAI_BACKWARD), LIST(pages.page_table)[0] = 3); /* left padding reaches it, no row does */
    FINE_OF(paged(context, MFAI_FORWARD), (LIST(sequences.key_lengths)[0] = 1, LIST(sequences.left_padding)[0] = 1));
}

/* Lists may lie in any way; tensors without elements need no memory. */
static void test_layouts(mfa_context_t context) {
    call c = packed(context, MFAI_FORWARD);
    static int32_t backwards[5] = {5, -1, 2, -1, 0};
    T(sequences.query_starts).data = &backwards[4];
    T(sequences.query_starts).stride[3] = -2;
    CHECK(import(&c) == MFA_SUCCESS && has_length(0, 2, 4) && has_length(1, 3, 5));
    c = cached(context, MFAI_FORWARD);
    T(sequences.query_lengths).stride[3] = 0;
    CHECK(import(&c) == MFA_SUCCESS && has_length(1, 3, 3));

    /* No sequence, and none with a row. */
    c = packed(context, MFAI_FORWARD);
    ABSENT(bool_mask) = ABSENT(additive_mask) = true;
    pack(&T(sequences.query_starts), 1, 1, 1, 1);
    pack(&T(sequences.key_starts), 1, 1, 1, 1);
    CHECK(import(&c) == MFA_SUCCESS && problem.batch == 0 && problem.query_count == 0 && problem.key_count == 0);
    c = packed(context, MFAI_FORWARD);
    ABSENT(bool_mask) = ABSENT(additive_mask) = true;
    FILL(sequences.query_starts, {0, 0, 0});
    FILL(sequences.key_starts, {0, 0, 0});
    CHECK(import(&c) == MFA_SUCCESS && problem.query_count == 0 && problem.key_count == 0 && has_length(1, 0, 0));
    c = paged(context, MFAI_FORWARD);
    FILL(sequences.key_lengths, {0, 0});
    FILL(sequences.left_padding, {0, 0});
    pack(&T(pages.page_table), 1, 1, 2, 0);
    pack(&T(key), 0, 2, 2, 8);
    pack(&T(value), 0, 2, 2, 6);
    T(key).data = T(value).data = T(pages.page_table).data = NULL;
    CHECK(import(&c) == MFA_SUCCESS && has_length(0, 3, 0));
}

/* A list in memory that only a device can reach is not read, nor any other. */
static void test_lists_on_a_device(mfa_context_t context) {
    mfa_buffer_t buffer = NULL;
    CHECK(mfa_create_buffer(context, 64, &buffer) == MFA_SUCCESS);
    mfai_memory_t *memory_of = (mfai_memory_t *)(uintptr_t)mfai_buffer_memory(buffer);
    void *const contents = memory_of->contents;
    memory_of->contents = NULL;
    for (int pass = MFAI_FORWARD; pass < MFAI_PASSES; ++pass) {
        call c = packed(context, pass);
        ABSENT(bool_mask) = ABSENT(additive_mask) = ABSENT(dbias) = true;
        T(sequences.query_starts).data = NULL;
        T(sequences.query_starts).buffer = buffer;
        LIST(sequences.key_starts)[1] = -1;
        CHECK(import(&c) == MFA_SUCCESS && problem.lengths == NULL && problem.tables == NULL);
        CHECK(problem.batch == 2 && problem.query_count == 5 && problem.key_count == 9);
        c.sequences.most_queries = 4;
        CHECK(import(&c) == MFA_SUCCESS && problem.query_count == 4);
        c = paged(context, pass);
        c.sequences.most_keys = 0;
        ABSENT(bool_mask) = true;
        T(pages.page_table).data = NULL;
        T(pages.page_table).buffer = buffer;
        if (pass == MFAI_FORWARD)
            CHECK(import(&c) == MFA_SUCCESS && problem.key_count == 6 && problem.features & MFAI_PAGES);
        else
            CHECK_FAILS(import(&c), MFA_ERROR_UNSUPPORTED,
                        "pages needs lists that the CPU can read in a backward call");
    }
    memory_of->contents = contents;
    mfa_destroy_buffer(buffer);
}

int main(void) {
    mfa_context_t context = NULL;
    CHECK(mfa_create_context(&context) == MFA_SUCCESS);
    test_what_lists_come_to(context);
    test_most(context);
    test_refused_lists(context);
    test_refused_operands(context);
    test_sharing(context);
    test_layouts(context);
    test_lists_on_a_device(context);
    for (int pass = MFAI_FORWARD; pass < MFAI_PASSES; ++pass) {
        test_each_operand(cached, context, pass);
        test_each_operand(packed, context, pass);
        test_each_operand(paged, context, pass);
    }
    mfa_destroy_context(context);
    return check_report();
}
