#include "core/blocks.h"

#include "core/integers.h"
#include "core/lists.h"

/* Blocks as one pair of operands lists them. */
typedef struct {
    const char *counts_name, *indices_name;
    const mfai_view_t *counts, *indices;
} list_t;

static mfa_status_t check_pair(const list_t *list) {
    const mfai_view_t *counts = list->counts, *indices = list->indices;
    MFAI_REQUIRE(counts->present || !indices->present, "blocks.%s is set, but blocks.%s is NULL", list->indices_name,
                 list->counts_name);
    MFAI_REQUIRE(indices->present || !counts->present, "blocks.%s is set, but blocks.%s is NULL", list->counts_name,
                 list->indices_name);
    MFAI_REQUIRE(counts->shape[0] == indices->shape[0] && counts->shape[1] == indices->shape[1],
                 "blocks.%s has batch %" PRId64 " and %" PRId64 " heads, expected blocks.%s's %" PRId64 " and %" PRId64,
                 list->indices_name, indices->shape[0], indices->shape[1], list->counts_name, counts->shape[0],
                 counts->shape[1]);
    return MFA_SUCCESS;
}

static mfa_status_t check_operands(const mfai_problem_t *p, const list_t *partial, const list_t *full) {
    MFAI_TRY(check_pair(partial));
    MFAI_TRY(check_pair(full));
    const bool has_lists = partial->counts->present || full->counts->present;
    MFAI_REQUIRE(has_lists || p->block_mask.present,
                 "blocks has neither lists nor blocks.block_mask, expected one of them");
    MFAI_REQUIRE(!has_lists || !p->block_mask.present,
                 "blocks.block_mask is set beside blocks.%s, expected one of them",
                 partial->counts->present ? partial->counts_name : full->counts_name);
    MFAI_REQUIRE(p->masks.present || !p->mask_indices.present, "blocks.mask_indices is set, but blocks.masks is NULL");
    MFAI_REQUIRE(p->mask_indices.present || !p->masks.present, "blocks.masks is set, but blocks.mask_indices is NULL");
    if (!p->mask_indices.present)
        return MFA_SUCCESS;
    MFAI_REQUIRE(partial->indices->present, "blocks.mask_indices is set, but blocks.kv_indices is NULL");
    return mfai_view_expect("blocks.mask_indices", &p->mask_indices, partial->indices->shape, 0);
}

/* ------------------------------------------------------------------ what lists say */

/* One row of blocks: of which batch and head, and how many it may name. */
typedef struct {
    int64_t batch, head, line, columns;
} line_t;

static mfa_status_t read_count(const list_t *list, const line_t *at, int64_t *count) {
    *count = 0;
    if (!list->counts->present)
        return MFA_SUCCESS;
    *count = mfai_list_at(list->counts, at->batch, at->head, at->line, 0);
    MFAI_REQUIRE(*count >= 0 && *count <= list->indices->shape[3],
                 "blocks.%s[%" PRId64 ", %" PRId64 ", %" PRId64 ", 0] is %" PRId64 ", expected 0 to %" PRId64
                 ", as many as blocks.%s has",
                 list->counts_name, at->batch, at->head, at->line, *count, list->indices->shape[3], list->indices_name);
    return MFA_SUCCESS;
}

/* Index i of a row, which is to be above the one before. */
static mfa_status_t read_index(const list_t *list, const line_t *at, int64_t i, int64_t *block) {
    const int64_t before = *block;
    *block = mfai_list_at(list->indices, at->batch, at->head, at->line, i);
    MFAI_REQUIRE(*block >= 0 && *block < at->columns,
                 "blocks.%s[%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64 "] is %" PRId64 ", expected 0 to %" PRId64,
                 list->indices_name, at->batch, at->head, at->line, i, *block, at->columns - 1);
    MFAI_REQUIRE(*block > before,
                 "blocks.%s[%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64 "] is %" PRId64 " behind %" PRId64
                 ", expected ascending blocks, each once",
                 list->indices_name, at->batch, at->head, at->line, i, *block, before);
    return MFA_SUCCESS;
}

static mfa_status_t check_mask_index(const mfai_problem_t *p, const line_t *at, int64_t i) {
    const int32_t mask = mfai_list_at(&p->mask_indices, at->batch, at->head, at->line, i);
    MFAI_REQUIRE(mask >= -1 && mask < p->masks.shape[0],
                 "blocks.mask_indices[%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64
                 "] is %d, expected -1 (none) to %" PRId64,
                 at->batch, at->head, at->line, i, mask, p->masks.shape[0] - 1);
    return MFA_SUCCESS;
}

/* Merges both lists of a row, whose blocks are to be different ones. */
static mfa_status_t check_line(const mfai_problem_t *p, const list_t *partial, const list_t *full, const line_t *at) {
    int64_t count, full_count, block = -1, full_block = -1, next_full = 0;
    MFAI_TRY(read_count(partial, at, &count));
    MFAI_TRY(read_count(full, at, &full_count));
    for (int64_t i = 0; i < count; ++i) {
        MFAI_TRY(read_index(partial, at, i, &block));
        if (p->mask_indices.present)
            MFAI_TRY(check_mask_index(p, at, i));
        while (full_block < block && next_full < full_count)
            MFAI_TRY(read_index(full, at, next_full++, &full_block));
        MFAI_REQUIRE(full_block != block,
                     "blocks.%s[%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64 "] is %" PRId64
                     ", which blocks.%s lists too, expected each block in one of them",
                     full->indices_name, at->batch, at->head, at->line, next_full - 1, block, partial->indices_name);
    }
    while (next_full < full_count)
        MFAI_TRY(read_index(full, at, next_full++, &full_block));
    return MFA_SUCCESS;
}

/* Along an axis: `size`, or 1 if all lists repeat there. */
static int64_t count_distinct(const mfai_view_t *const lists[], size_t count, int axis, int64_t size) {
    for (size_t i = 0; i < count; ++i)
        if (lists[i]->stride[axis] != 0)
            return size;
    return size < 1 ? size : 1;
}

mfa_status_t mfai_blocks_check(const mfai_problem_t *p) {
    if (p->block_rows == 0)
        return MFA_SUCCESS;
    const list_t partial = {"kv_num_blocks", "kv_indices", &p->kv_num_blocks, &p->kv_indices};
    const list_t full = {"full_kv_num_blocks", "full_kv_indices", &p->full_kv_num_blocks, &p->full_kv_indices};
    MFAI_TRY(check_operands(p, &partial, &full));
    const mfai_view_t *const lists[] = {partial.counts, partial.indices, full.counts, full.indices, &p->mask_indices};
    enum { LISTS = sizeof lists / sizeof *lists };
    for (int i = 0; i < LISTS; ++i)
        if (mfai_view_is_on_device(lists[i]))
            return MFA_SUCCESS;
    const int64_t sizes[3] = {p->batch, p->heads, mfai_ceil_div(p->query_count, p->block_rows)};
    int64_t distinct[3];
    for (int axis = 0; axis < 3; ++axis)
        distinct[axis] = count_distinct(lists, LISTS, axis, sizes[axis]);
    line_t at = {.columns = mfai_ceil_div(p->key_count, p->block_keys)};
    for (at.batch = 0; at.batch < distinct[0]; ++at.batch)
        for (at.head = 0; at.head < distinct[1]; ++at.head)
            for (at.line = 0; at.line < distinct[2]; ++at.line)
                MFAI_TRY(check_line(p, &partial, &full, &at));
    return MFA_SUCCESS;
}
