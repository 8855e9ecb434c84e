#include "core/sequences.h"

#include <stdlib.h>

#include "core/append.h"
#include "core/integers.h"
#include "core/lists.h"
#include "core/operands.h"
#include "core/sharing.h"

/* The sequence with the most rows on one side. */
typedef struct {
    int64_t sequence, rows;
} longest_t;

struct mfai_tables {
    mfai_layout_t queries, keys, new_keys;
    longest_t most_queries, most_keys;
    mfai_length_t *lengths;
    mfai_place_t *query_places, *key_places, *new_places;
};

/* ------------------------------------------------------------------ tables */

static mfa_status_t read_queries(const mfai_problem_t *p, int64_t i, mfai_length_t *length, mfai_place_t *place) {
    *place = mfai_list_place(&p->query_starts, i);
    length->queries = mfai_list_rows(&p->query_starts, i, p->query.shape[2]);
    return mfai_list_read("sequences.query_lengths", &p->query_lengths, i, length->queries, "the sequence's rows",
                          &length->queries);
}

/* Rows that a sequence's keys have room for. */
static int64_t capacity_of(const mfai_problem_t *p, int64_t i) {
    return p->page_table.present ? p->page_table.shape[3] * p->key.shape[2]
                                 : mfai_list_rows(&p->key_starts, i, p->key.shape[2]);
}

static mfa_status_t read_keys(const mfai_problem_t *p, int64_t i, mfai_length_t *length, mfai_place_t *place,
                              mfai_place_t *new_place) {
    const int64_t capacity = capacity_of(p, i);
    int64_t padding = 0;
    length->keys = capacity;
    MFAI_TRY(
        mfai_list_read("sequences.key_lengths", &p->key_lengths, i, capacity, "the sequence's rows", &length->keys));
    MFAI_TRY(
        mfai_list_read("sequences.left_padding", &p->left_padding, i, length->keys, "the sequence's keys", &padding));
    MFAI_TRY(mfai_append_read(p, i, capacity, padding, length, new_place));
    *place = p->page_table.present ? (mfai_place_t){i, 0} : mfai_list_place(&p->key_starts, i);
    MFAI_TRY(mfai_list_read("sequences.key_batches", &p->key_batches, i, p->key.shape[0] - 1, "a batch of key",
                            &place->batch));
    place->row += padding;
    length->keys -= padding;
    return MFA_SUCCESS;
}

/* Those that rows `first` to before `end`, one at least, lie in. */
static mfa_status_t check_pages(const mfai_problem_t *p, int64_t i, int64_t first, int64_t end) {
    for (int64_t n = first / p->key.shape[2]; n * p->key.shape[2] < end; ++n) {
        const int32_t page = mfai_list_at(&p->page_table, 0, 0, i, n);
        MFAI_REQUIRE(page >= 0 && page < p->key.shape[0],
                     "pages.page_table[%" PRId64 ", %" PRId64 "] is %d, expected 0 to %" PRId64 ", a page of key", i, n,
                     page, p->key.shape[0] - 1);
    }
    return MFA_SUCCESS;
}

static void note(longest_t *longest, int64_t sequence, int64_t rows) {
    if (rows > longest->rows)
        *longest = (longest_t){sequence, rows};
}

static mfa_status_t fill_tables(mfai_problem_t *p, mfai_tables_t *tables) {
    MFAI_TRY(mfai_list_check_starts("sequences.query_starts", &p->query_starts, p->query.shape[2]));
    MFAI_TRY(mfai_list_check_starts("sequences.key_starts", &p->key_starts, p->key.shape[2]));
    MFAI_TRY(mfai_list_check_starts("append.starts", &p->new_starts, p->new_key.shape[2]));
    for (int64_t i = 0; i < p->batch; ++i) {
        mfai_length_t *length = &tables->lengths[i];
        *length = (mfai_length_t){0};
        tables->new_places[i] = (mfai_place_t){i, 0};
        MFAI_TRY(read_queries(p, i, length, &tables->query_places[i]));
        MFAI_TRY(read_keys(p, i, length, &tables->key_places[i], &tables->new_places[i]));
        const int64_t first = tables->key_places[i].row;
        if (p->page_table.present && length->keys > 0)
            MFAI_TRY(check_pages(p, i, first, first + length->keys));
        note(&tables->most_queries, i, length->queries);
        note(&tables->most_keys, i, length->keys);
    }
    p->lengths = tables->lengths;
    return MFA_SUCCESS;
}

static mfai_tables_t *new_tables(int64_t batch) {
    const uint64_t each = sizeof(mfai_length_t) + 3 * sizeof(mfai_place_t);
    if ((uint64_t)batch > (PTRDIFF_MAX - sizeof(mfai_tables_t)) / each)
        return NULL;
    mfai_tables_t *tables = malloc(sizeof *tables + (size_t)batch * each);
    if (tables == NULL)
        return NULL;
    mfai_place_t *places = (mfai_place_t *)(tables + 1);
    *tables = (mfai_tables_t){.query_places = places,
                              .key_places = places + batch,
                              .new_places = places + 2 * batch,
                              .lengths = (mfai_length_t *)(places + 3 * batch)};
    return tables;
}

void mfai_problem_release(mfai_problem_t *problem) { free(problem->tables); }

/* ------------------------------------------------------------------ layouts */

void mfai_sequences_lay_out(mfai_problem_t *p) {
    mfai_tables_t *tables = p->tables;
    if (tables == NULL)
        return;
    tables->queries.places = tables->query_places;
    tables->keys.places = tables->key_places;
    tables->new_keys.places = tables->new_places;
    if (p->page_table.present) {
        tables->keys.pages = (const int32_t *)p->page_table.data;
        tables->keys.page_sequence = p->page_table.stride[2];
        tables->keys.page_entry = p->page_table.stride[3];
        tables->keys.page_rows = p->key.shape[2];
    }
    mfai_view_t *const queries[] = {&p->query, &p->query_value, &p->out,   &p->logsumexp,
                                    &p->dout,  &p->dquery,      &p->delta, &p->dlogsumexp};
    for (size_t i = 0; i < sizeof queries / sizeof *queries; ++i)
        queries[i]->layout = &tables->queries;
    mfai_view_t *const keys[] = {&p->key,
                                 &p->value,
                                 &p->dkey,
                                 &p->dvalue,
                                 &p->key_quantization.scales,
                                 &p->key_quantization.zero_points,
                                 &p->value_quantization.scales,
                                 &p->value_quantization.zero_points};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; ++i)
        keys[i]->layout = &tables->keys;
    p->new_key.layout = p->new_value.layout = &tables->new_keys;
}

/* ------------------------------------------------------------------ sizes */

static bool is_readable(const mfai_problem_t *p) {
    const mfai_view_t *const lists[] = {&p->query_starts, &p->key_starts,   &p->query_lengths,
                                        &p->key_lengths,  &p->left_padding, &p->key_batches,
                                        &p->page_table,   &p->new_starts,   &p->rotary_positions};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; ++i)
        if (mfai_view_is_on_device(lists[i]))
            return false;
    return true;
}

/* Everything but what lists say. */
static mfa_status_t check_operands(const mfai_problem_t *p) {
    MFAI_REQUIRE(!p->key_starts.present || !p->page_table.present,
                 "sequences.key_starts is set beside pages, expected one of them");
    MFAI_REQUIRE(!p->key_starts.present || !p->key_batches.present,
                 "sequences.key_starts is set beside sequences.key_batches, expected one of them");
    MFAI_REQUIRE(!p->key_batches.present || !p->page_table.present,
                 "sequences.key_batches is set beside pages, expected one of them");
    MFAI_TRY(mfai_operands_check_shapes(p, MFAI_PARTS_OF_SEQUENCES));
    int64_t rows = 0;
    MFAI_REQUIRE(!p->page_table.present || p->key.shape[2] > 0, "key has pages of 0 rows, expected 1 or more");
    MFAI_REQUIRE(!__builtin_mul_overflow(p->page_table.shape[3], p->key.shape[2], &rows),
                 "pages.page_table has %" PRId64 " pages of %" PRId64 " rows for a sequence, which overflows 64 bits",
                 p->page_table.shape[3], p->key.shape[2]);
    return mfai_append_check(p);
}

/* The most rows that a sequence has: what the caller says, if none has more; else the longest's if rows are packed or
   in pages, and the operand's if not or if lists cannot be read. */
static mfa_status_t set_most(const char *name, int64_t stated, int64_t of_operand, bool is_packed,
                             const longest_t *longest, int64_t *most) {
    MFAI_REQUIRE(stated >= 0, "sequences.%s is %" PRId64 ", expected 0 or more", name, stated);
    MFAI_REQUIRE(stated == 0 || longest == NULL || longest->rows <= stated,
                 "sequences.%s is %" PRId64 ", but sequence %" PRId64 " has %" PRId64 " rows", name, stated,
                 longest->sequence, longest->rows);
    *most = stated > 0 ? stated : is_packed && longest != NULL ? longest->rows : of_operand;
    return MFA_SUCCESS;
}

mfa_status_t mfai_sequences_set_sizes(const mfa_sequences_t *sequences, mfai_problem_t *p) {
    p->batch = p->query_starts.present ? p->query_starts.shape[3] - 1 : p->query.shape[0];
    p->query_count = p->query.shape[2];
    p->key_count = p->key.shape[2];
    if ((p->described & MFAI_PARTS_OF_SEQUENCES) == 0)
        return MFA_SUCCESS;
    MFAI_REQUIRE(p->batch >= 0, "sequences.query_starts is empty, expected one entry more than there are sequences");
    MFAI_TRY(check_operands(p));
    p->features |= MFAI_SEQUENCES;
    if (is_readable(p)) {
        p->tables = new_tables(p->batch);
        if (p->tables == NULL)
            return mfai_fail(MFA_ERROR_MEMORY_ALLOCATION, "no memory for the tables of %" PRId64 " sequences",
                             p->batch);
        MFAI_TRY(fill_tables(p, p->tables));
    }
    MFAI_TRY(mfai_sharing_check(p));
    const mfai_tables_t *tables = p->tables;
    const int64_t keys = p->page_table.present ? p->page_table.shape[3] * p->key.shape[2] : p->key.shape[2];
    MFAI_TRY(set_most("most_queries", sequences != NULL ? sequences->most_queries : 0, p->query.shape[2],
                      p->query_starts.present, tables != NULL ? &tables->most_queries : NULL, &p->query_count));
    return set_most("most_keys", sequences != NULL ? sequences->most_keys : 0, keys,
                    p->key_starts.present || p->page_table.present, tables != NULL ? &tables->most_keys : NULL,
                    &p->key_count);
}
