#include "core/sequences.h"

#include <inttypes.h>
#include <stdlib.h>

#include "core/integers.h"

struct mfai_tables {
    mfai_layout_t queries, keys, new_keys;
    mfai_length_t *lengths;
    mfai_place_t *query_places, *key_places, *new_places;
};

/* ------------------------------------------------------------------ lists */

static int32_t entry(const mfai_view_t *list, int64_t i) { return ((const int32_t *)list->data)[i * list->stride[3]]; }

static mfa_status_t check_starts(const char *name, const mfai_view_t *starts, int64_t rows) {
    if (!starts->present)
        return MFA_SUCCESS;
    MFAI_REQUIRE(entry(starts, 0) == 0, "%s[0] is %d, expected 0", name, entry(starts, 0));
    for (int64_t i = 1; i < starts->shape[3]; ++i)
        MFAI_REQUIRE(entry(starts, i) >= entry(starts, i - 1),
                     "%s[%" PRId64 "] is %d, expected at least %d as the one before", name, i, entry(starts, i),
                     entry(starts, i - 1));
    const int32_t last = entry(starts, starts->shape[3] - 1);
    MFAI_REQUIRE(last <= rows, "%s[%" PRId64 "] is %d, expected at most %" PRId64 ", the rows that are there", name,
                 starts->shape[3] - 1, last, rows);
    return MFA_SUCCESS;
}

/* Entry i of a list of lengths, at most `most`. */
static mfa_status_t read_length(const char *name, const mfai_view_t *list, int64_t i, int64_t most, int64_t *length) {
    if (!list->present)
        return MFA_SUCCESS;
    const int32_t value = entry(list, i);
    MFAI_REQUIRE(value >= 0, "%s[%" PRId64 "] is %d, expected 0 or more", name, i, value);
    MFAI_REQUIRE(value <= most, "%s[%" PRId64 "] is %d, expected at most %" PRId64, name, i, value, most);
    *length = value;
    return MFA_SUCCESS;
}

/* Rows of one sequence: as starts have it, or all that an operand has of a batch. */
static int64_t rows_of(const mfai_view_t *starts, int64_t i, int64_t rows) {
    return starts->present ? entry(starts, i + 1) - entry(starts, i) : rows;
}

static mfai_place_t place_of(const mfai_view_t *starts, int64_t i) {
    return starts->present ? (mfai_place_t){0, entry(starts, i)} : (mfai_place_t){i, 0};
}

/* ------------------------------------------------------------------ tables */

static mfa_status_t read_queries(const mfai_problem_t *p, int64_t i, mfai_length_t *length, mfai_place_t *place) {
    *place = place_of(&p->query_starts, i);
    length->queries = rows_of(&p->query_starts, i, p->query.shape[2]);
    return read_length("sequences.query_lengths", &p->query_lengths, i, length->queries, &length->queries);
}

/* Rows that a sequence's cache can hold. */
static int64_t capacity_of(const mfai_problem_t *p, int64_t i) {
    if (p->page_table.present)
        return p->page_table.shape[3] * p->key.shape[2];
    return rows_of(&p->key_starts, i, p->key.shape[2]);
}

static mfa_status_t read_new_keys(const mfai_problem_t *p, int64_t i, int64_t capacity, int64_t padding,
                                  mfai_length_t *length, mfai_place_t *place) {
    *place = place_of(&p->new_starts, i);
    length->new_first = length->keys - padding;
    length->new = rows_of(&p->new_starts, i, p->new_key.shape[2]);
    MFAI_REQUIRE(length->new <= capacity - length->keys,
                 "append.key has %" PRId64 " rows for sequence %" PRId64 ", whose cache has room for %" PRId64
                 " behind the %" PRId64 " that are there",
                 length->new, i, capacity - length->keys, length->keys);
    length->rotary = length->keys;
    length->keys += length->new;
    return read_length("append.rotary_positions", &p->rotary_positions, i, INT32_MAX, &length->rotary);
}

static mfa_status_t read_keys(const mfai_problem_t *p, int64_t i, mfai_length_t *length, mfai_place_t *place,
                              mfai_place_t *new_place) {
    const int64_t capacity = capacity_of(p, i);
    int64_t padding = 0;
    length->keys = capacity;
    MFAI_TRY(read_length("sequences.key_lengths", &p->key_lengths, i, capacity, &length->keys));
    MFAI_TRY(read_length("sequences.left_padding", &p->left_padding, i, length->keys, &padding));
    if (p->new_key.present)
        MFAI_TRY(read_new_keys(p, i, capacity, padding, length, new_place));
    *place = p->page_table.present ? (mfai_place_t){i, 0} : place_of(&p->key_starts, i);
    if (p->key_batches.present)
        MFAI_TRY(read_length("sequences.key_batches", &p->key_batches, i, p->key.shape[0] - 1, &place->batch));
    place->row += padding;
    length->keys -= padding;
    return MFA_SUCCESS;
}

static mfa_status_t check_pages(const mfai_problem_t *p, int64_t i, int64_t begin, int64_t end) {
    const mfai_view_t *table = &p->page_table;
    for (int64_t n = begin / p->key.shape[2]; n * p->key.shape[2] < end; ++n) {
        const int32_t page = ((const int32_t *)table->data)[i * table->stride[2] + n * table->stride[3]];
        MFAI_REQUIRE(page >= 0 && page < p->key.shape[0],
                     "pages.page_table[%" PRId64 ", %" PRId64 "] is %d, expected 0 to %" PRId64, i, n, page,
                     p->key.shape[0] - 1);
    }
    return MFA_SUCCESS;
}

static mfa_status_t fill_tables(mfai_problem_t *p, mfai_tables_t *tables) {
    for (int64_t i = 0; i < p->batch; ++i) {
        mfai_length_t *length = &tables->lengths[i];
        *length = (mfai_length_t){0};
        tables->new_places[i] = (mfai_place_t){i, 0};
        MFAI_TRY(read_queries(p, i, length, &tables->query_places[i]));
        MFAI_TRY(read_keys(p, i, length, &tables->key_places[i], &tables->new_places[i]));
        const int64_t first = tables->key_places[i].row;
        if (p->page_table.present)
            MFAI_TRY(check_pages(p, i, first, first + length->keys));
    }
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
    mfai_view_t *const queries[] = {&p->query, &p->query_value, &p->out, &p->logsumexp, &p->dout, &p->dquery};
    for (size_t i = 0; i < sizeof queries / sizeof *queries; ++i)
        queries[i]->layout = &tables->queries;
    mfai_view_t *const keys[] = {&p->key, &p->value, &p->dkey, &p->dvalue};
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

/* Of some rows, the most that a sequence has: what the caller says, which none may exceed, or `found`. */
static mfa_status_t set_most(const char *name, int64_t stated, int64_t found, bool is_known, int64_t *most) {
    MFAI_REQUIRE(stated >= 0, "sequences.%s is %" PRId64 ", expected 0 or more", name, stated);
    MFAI_REQUIRE(stated == 0 || !is_known || found <= stated,
                 "sequences.%s is %" PRId64 ", but a sequence has %" PRId64 " rows", name, stated, found);
    *most = stated > 0 ? stated : found;
    return MFA_SUCCESS;
}

mfa_status_t mfai_sequences_set_sizes(const mfa_sequences_t *sequences, mfai_problem_t *p) {
    const bool has_lists = sequences != NULL || p->page_table.present || p->new_key.present;
    p->batch = p->query_starts.present ? p->query_starts.shape[3] - 1 : p->query.shape[0];
    p->query_count = p->query.shape[2];
    p->key_count = p->key.shape[2];
    if (!has_lists)
        return MFA_SUCCESS;
    MFAI_REQUIRE(p->batch >= 0, "sequences.query_starts is empty, expected one entry more than there are sequences");
    MFAI_REQUIRE(!p->key_starts.present || !(p->page_table.present || p->key_batches.present),
                 "sequences.key_starts is set beside %s, expected one of them",
                 p->page_table.present ? "pages" : "sequences.key_batches");
    MFAI_REQUIRE(!p->key_batches.present || !p->page_table.present,
                 "sequences.key_batches is set beside pages, expected one of them");
    MFAI_REQUIRE(!p->page_table.present || p->key.shape[2] > 0 || p->key_count == 0,
                 "key has pages of 0 rows, expected 1 or more");
    p->features |= MFAI_SEQUENCES;
    int64_t most_queries = p->query.shape[2];
    int64_t most_keys = p->page_table.present ? p->page_table.shape[3] * p->key.shape[2] : p->key.shape[2];
    const bool readable = is_readable(p);
    if (readable) {
        p->tables = new_tables(p->batch);
        if (p->tables == NULL)
            return mfai_fail(MFA_ERROR_MEMORY_ALLOCATION, "no memory for the tables of %" PRId64 " sequences",
                             p->batch);
        MFAI_TRY(check_starts("sequences.query_starts", &p->query_starts, p->query.shape[2]));
        MFAI_TRY(check_starts("sequences.key_starts", &p->key_starts, p->key.shape[2]));
        MFAI_TRY(check_starts("append.starts", &p->new_starts, p->new_key.shape[2]));
        MFAI_TRY(fill_tables(p, p->tables));
        p->lengths = p->tables->lengths;
        int64_t queries = 0, keys = 0;
        for (int64_t i = 0; i < p->batch; ++i) {
            queries = mfai_max(queries, p->lengths[i].queries);
            keys = mfai_max(keys, p->lengths[i].keys);
        }
        /* Masks of operands that are not packed have the sizes of those. */
        most_queries = p->query_starts.present ? queries : most_queries;
        most_keys = p->key_starts.present || p->page_table.present ? keys : most_keys;
    }
    const int64_t stated_queries = sequences != NULL ? sequences->most_queries : 0;
    const int64_t stated_keys = sequences != NULL ? sequences->most_keys : 0;
    MFAI_TRY(set_most("most_queries", stated_queries, most_queries, readable, &p->query_count));
    return set_most("most_keys", stated_keys, most_keys, readable, &p->key_count);
}
