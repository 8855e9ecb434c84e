#include "attn/blocks.h"

#include <string.h>

#include "core/integers.h"

bool mfai_blocks_differ(const mfai_problem_t *p, int axis) {
    const mfai_view_t *const lists[] = {&p->kv_num_blocks,   &p->kv_indices, &p->full_kv_num_blocks,
                                        &p->full_kv_indices, &p->block_mask, &p->mask_indices};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; ++i)
        if (lists[i]->present && lists[i]->shape[axis] > 1 && lists[i]->stride[axis] != 0)
            return true;
    return false;
}

/* What repeats along an axis in all that the lists say has size 1 there. */
static int64_t joined(const mfai_problem_t *p, int axis, int64_t size) {
    return mfai_blocks_differ(p, axis) || size < 1 ? size : 1;
}

static int64_t columns_of(const mfai_problem_t *p) { return mfai_ceil_div(p->key_count, p->block_keys); }

static bool has_full(const mfai_problem_t *p) {
    return p->full_kv_num_blocks.present && (p->bool_mask.present || p->mask_indices.present);
}

/* A view of so many elements a line at `*memory`, which moves behind it. */
static mfai_view_t place(const mfai_problem_t *p, int32_t format, int64_t elements, char **memory) {
    mfai_view_t view = {.present = true,
                        .format = format,
                        .data = *memory,
                        .shape = {joined(p, 0, p->batch), joined(p, 1, p->heads),
                                  mfai_ceil_div(p->query_count, p->block_rows), elements}};
    const int64_t strides[4] = {view.shape[1] * view.shape[2] * elements, view.shape[2] * elements, elements, 1};
    for (int axis = 0; axis < 4; ++axis)
        view.stride[axis] = view.shape[axis] > 1 ? strides[axis] : 0;
    if (*memory != NULL)
        *memory += view.shape[0] * strides[0] * (int64_t)sizeof(uint32_t);
    return view;
}

/* Of a line: bits, bits and tile numbers. */
static void find_widths(const mfai_problem_t *p, int64_t widths[3]) {
    const int64_t columns = columns_of(p), words = mfai_ceil_div(columns, MFA_BLOCK_BITS);
    widths[0] = words;
    widths[1] = has_full(p) ? words : 0;
    widths[2] = p->mask_indices.present ? mfai_clamp(p->mask_indices.shape[3], 0, columns) : 0;
}

int64_t mfai_blocks_bytes(const mfai_problem_t *p) {
    int64_t widths[3], bytes;
    find_widths(p, widths);
    const int64_t factors[] = {joined(p, 0, p->batch), joined(p, 1, p->heads),
                               mfai_ceil_div(p->query_count, p->block_rows), sizeof(uint32_t)};
    bool overflows = __builtin_add_overflow(widths[0] + widths[1], widths[2], &bytes);
    for (size_t i = 0; i < sizeof factors / sizeof *factors; ++i)
        overflows = __builtin_mul_overflow(bytes, factors[i], &bytes) || overflows;
    return overflows ? -1 : bytes;
}

int64_t mfai_blocks_place(mfai_problem_t *p, void *memory) {
    int64_t widths[3];
    find_widths(p, widths);
    char *next = memory;
    p->blocks = place(p, MFAI_FORMAT_UINT32, widths[0], &next);
    if (has_full(p))
        p->full_blocks = place(p, MFAI_FORMAT_UINT32, widths[1], &next);
    if (p->mask_indices.present)
        p->mask_tiles = place(p, MFAI_FORMAT_INT32, widths[2], &next);
    return p->blocks.shape[0] * p->blocks.shape[1] * p->blocks.shape[2];
}

/* Of a line of any of the views, lists included. */
static char *line_data(const mfai_view_t *view, int64_t batch, int64_t head, int64_t line) {
    if (view->data == NULL) /* it is empty */
        return NULL;
    return view->data +
           (batch * view->stride[0] + head * view->stride[1] + line * view->stride[2]) * mfai_view_element(view);
}

static int32_t entry(const mfai_view_t *list, const char *line, int64_t at) {
    return ((const int32_t *)(const void *)line)[at * list->stride[3]];
}

static void set_bit(uint32_t *words, int64_t block) { words[block / MFA_BLOCK_BITS] |= 1u << block % MFA_BLOCK_BITS; }

static void set_listed(const mfai_view_t *counts, const mfai_view_t *indices, int64_t batch, int64_t head, int64_t line,
                       uint32_t *words) {
    const int32_t count = *(const int32_t *)(const void *)line_data(counts, batch, head, line);
    const char *listed = line_data(indices, batch, head, line);
    for (int32_t i = 0; i < count; ++i)
        set_bit(words, entry(indices, listed, i));
}

/* How many of the blocks first .. end - 1 count and are not among the `full`, if there are any. */
static int64_t count_partial(const uint32_t *visible, const uint32_t *full, int64_t first, int64_t end) {
    int64_t count = 0;
    for (int64_t block = first; block < end; block = (block / MFA_BLOCK_BITS + 1) * MFA_BLOCK_BITS) {
        const int64_t word = block / MFA_BLOCK_BITS, last = end - word * MFA_BLOCK_BITS;
        uint32_t bits = full != NULL ? visible[word] & ~full[word] : visible[word];
        bits >>= block % MFA_BLOCK_BITS;
        if (last < MFA_BLOCK_BITS)
            bits &= (1u << (last - block % MFA_BLOCK_BITS)) - 1;
        count += __builtin_popcount(bits);
    }
    return count;
}

/* Partial blocks are those of kv_indices, which ascend and are not full. */
static void fill_tiles(const mfai_problem_t *p, int64_t batch, int64_t head, int64_t line) {
    int32_t *tiles = (int32_t *)(void *)line_data(&p->mask_tiles, batch, head, line);
    const int32_t count = *(const int32_t *)(const void *)line_data(&p->kv_num_blocks, batch, head, line);
    const char *chosen = line_data(&p->mask_indices, batch, head, line);
    for (int32_t i = 0; i < count; ++i)
        tiles[i] = entry(&p->mask_indices, chosen, i);
}

static void fill_line(const mfai_problem_t *p, int64_t batch, int64_t head, int64_t line) {
    uint32_t *visible = (uint32_t *)(void *)line_data(&p->blocks, batch, head, line);
    const int64_t words = p->blocks.shape[3];
    memset(visible, 0, (size_t)words * sizeof *visible);
    if (p->block_mask.present) {
        const char *mask = line_data(&p->block_mask, batch, head, line);
        for (int64_t block = 0; block < p->block_mask.shape[3]; ++block)
            visible[block / MFA_BLOCK_BITS] |= (uint32_t)(mask[block * p->block_mask.stride[3]] != 0)
                                               << block % MFA_BLOCK_BITS;
    }
    if (p->kv_num_blocks.present)
        set_listed(&p->kv_num_blocks, &p->kv_indices, batch, head, line, visible);
    if (p->full_kv_num_blocks.present) {
        if (p->full_blocks.present) {
            uint32_t *full = (uint32_t *)(void *)line_data(&p->full_blocks, batch, head, line);
            memset(full, 0, (size_t)words * sizeof *full);
            set_listed(&p->full_kv_num_blocks, &p->full_kv_indices, batch, head, line, full);
        }
        set_listed(&p->full_kv_num_blocks, &p->full_kv_indices, batch, head, line, visible);
    }
    if (p->mask_tiles.present)
        fill_tiles(p, batch, head, line);
}

void mfai_blocks_fill(const mfai_problem_t *p, mfa_span lines) {
    const int64_t heads = p->blocks.shape[1], rows = p->blocks.shape[2];
    for (int64_t i = lines.begin; i < lines.end; ++i)
        fill_line(p, i / rows / heads, i / rows % heads, i % rows);
}

int64_t mfai_blocks_count(const mfai_problem_t *p, int64_t batch, int64_t head, mfa_span lines) {
    int64_t count = 0;
    for (int64_t line = lines.begin; line < lines.end; ++line) {
        const mfai_block_line_t found = mfai_block_line(p, batch, head, line);
        count += count_partial(found.visible, NULL, 0, columns_of(p));
    }
    return count;
}

mfai_block_line_t mfai_block_line(const mfai_problem_t *p, int64_t batch, int64_t head, int64_t line) {
    mfai_block_line_t found = {
        .visible = (const uint32_t *)(const void *)line_data(&p->blocks, batch, head, line),
        .is_masked = p->bool_mask.present || p->mask_tiles.present,
    };
    if (p->full_blocks.present)
        found.full = (const uint32_t *)(const void *)line_data(&p->full_blocks, batch, head, line);
    if (p->mask_tiles.present)
        found.tiles = (const int32_t *)(const void *)line_data(&p->mask_tiles, batch, head, line);
    return found;
}

int32_t mfai_block_tile(const mfai_block_line_t *line, int64_t block) {
    return line->tiles != NULL ? line->tiles[count_partial(line->visible, line->full, 0, block)] : -1;
}
