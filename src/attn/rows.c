#include "attn/rows.h"

#include <string.h>

/* `size` is a constant wherever this is called, so that the copy of an element is a load and a store. */
static inline void copy_elements(const char *from, int64_t from_stride, char *to, int64_t to_stride, int64_t count,
                                 const int64_t size) {
    for (int64_t i = 0; i < count; ++i)
        memcpy(to + i * to_stride * size, from + i * from_stride * size, (size_t)size);
}

static void copy_strided(const char *from, int64_t from_stride, char *to, int64_t to_stride, int64_t count,
                         int64_t size) {
    switch (size) {
    case 4:
        copy_elements(from, from_stride, to, to_stride, count, 4);
        return;
    case 2:
        copy_elements(from, from_stride, to, to_stride, count, 2);
        return;
    default:
        copy_elements(from, from_stride, to, to_stride, count, size);
    }
}

void mfai_gather_row(const mfai_view_t *view, const char *row, char *copy) {
    copy_strided(row, view->stride[3], copy, 1, view->shape[3], mfai_view_element(view));
}

void mfai_copy_row(const mfai_view_t *from, const char *row, const mfai_view_t *to, char *target) {
    const int64_t columns = from->shape[3], size = mfai_view_element(from);
    if (mfai_rows_are_contiguous(from) && mfai_rows_are_contiguous(to))
        memcpy(target, row, (size_t)(columns * size));
    else
        copy_strided(row, from->stride[3], target, to->stride[3], columns, size);
}

/* Copies rows first + rows.begin .. first + rows.end - 1, behind room for those of the block before them. */
static void gather_rows(const mfai_view_t *view, int64_t b, int64_t h, int64_t first, mfa_span rows, char *copy) {
    const int64_t bytes = view->shape[3] * mfai_view_element(view);
    for (int64_t i = rows.begin; i < rows.end; ++i)
        mfai_gather_row(view, mfai_view_row(view, b, h, first + i), copy + i * bytes);
}

static bool is_paged(const mfai_view_t *view) { return view->layout != NULL && view->layout->pages != NULL; }

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* A row in pages. */
typedef struct {
    const int32_t *entry;
    int64_t in_page;
} paged_row_t;

static paged_row_t find_paged(const mfai_view_t *view, int64_t b, int64_t row) {
    const mfai_layout_t *layout = view->layout;
    const int64_t at = (layout->places != NULL ? layout->places[b].row : 0) + row;
    return (paged_row_t){layout->pages + b * layout->page_sequence + at / layout->page_rows * layout->page_entry,
                         at % layout->page_rows};
}

/* What addresses of one head's rows are made of. */
typedef struct {
    const char *head; /* its first row in page 0 */
    int64_t page_bytes, step, page_rows, page_entry;
} pages_t;

static pages_t pages_of(const mfai_view_t *view, int64_t h) {
    return (pages_t){.head = view->data + mfai_view_offset(view, h * view->stride[1]),
                     .page_bytes = mfai_view_offset(view, view->stride[0]),
                     .step = mfai_view_step(view),
                     .page_rows = view->layout->page_rows,
                     .page_entry = view->layout->page_entry};
}

static inline const char *paged_address(const pages_t *pages, paged_row_t at) {
    return pages->head + *at.entry * pages->page_bytes + at.in_page * pages->step;
}

/* The row that is so many rows on, no more than are left in the page. */
static inline paged_row_t paged_behind(const pages_t *pages, paged_row_t at, int64_t rows) {
    at.in_page += rows;
    return at.in_page < pages->page_rows ? at : (paged_row_t){at.entry + pages->page_entry, 0};
}

/* Rows that lie in a page as those to prefetch for them do in theirs are a run. */
static void find_runs(const mfai_view_t *view, int64_t b, int64_t h, int64_t first, mfa_span rows, int64_t there,
                      mfai_rows_run_t *run) {
    const pages_t pages = pages_of(view, h);
    int64_t ahead = mfai_rows_ahead(view);
    if (ahead > pages.page_rows)
        ahead = ahead / pages.page_rows * pages.page_rows; /* or all pages fell into two runs */
    paged_row_t at = find_paged(view, b, first + rows.begin), coming = find_paged(view, b, first + rows.begin + ahead);
    for (int64_t i = rows.begin; i < rows.end; ++run) {
        const int64_t most_in_page = at.in_page > coming.in_page ? at.in_page : coming.in_page;
        const int64_t count = smaller(rows.end - i, pages.page_rows - most_in_page);
        const char *address = paged_address(&pages, at);
        run->first = address - i * pages.step;
        run->ahead = first + i + ahead < there ? paged_address(&pages, coming) - address : 0;
        i += count;
        run->end = i;
        at = paged_behind(&pages, at, count);
        coming = paged_behind(&pages, coming, count);
    }
}

mfai_spaced_rows_t mfai_rows_space(const mfai_view_t *view, int64_t b, int64_t h, int64_t first, mfa_span rows,
                                   int64_t there, const mfai_rows_room_t *room) {
    mfai_spaced_rows_t spaced = {.run = room->runs,
                                 .step = mfai_view_step(view),
                                 .columns = view->shape[3],
                                 .format = view->format,
                                 .zeros = room->zeros};
    if (mfai_rows_are_contiguous(view) && is_paged(view)) {
        find_runs(view, b, h, first, rows, there, room->runs);
        return spaced;
    }
    const char *block = room->copy;
    if (mfai_rows_are_contiguous(view)) {
        block = mfai_view_row(view, b, h, first);
    } else {
        gather_rows(view, b, h, first, rows, room->copy);
        spaced.step = view->shape[3] * mfai_view_element(view);
    }
    *room->runs = (mfai_rows_run_t){block, mfai_rows_ahead(view) * spaced.step, rows.end};
    return spaced;
}

static void fill(const char **table, mfa_span rows, const char *first, int64_t step) {
    for (int64_t i = rows.begin; i < rows.end; ++i)
        table[i] = first + i * step;
}

static void fill_paged(const mfai_view_t *view, int64_t b, int64_t h, int64_t first, int64_t count,
                       const char **table) {
    const pages_t pages = pages_of(view, h);
    paged_row_t at = find_paged(view, b, first);
    for (int64_t i = 0; i < count;) {
        const mfa_span run = mfa_span_of(i, i + smaller(count - i, pages.page_rows - at.in_page));
        fill(table, run, paged_address(&pages, at) - i * pages.step, pages.step);
        at = paged_behind(&pages, at, run.end - run.begin);
        i = run.end;
    }
}

mfai_rows_t mfai_rows_find(const mfai_view_t *view, int64_t b, int64_t h, int64_t first, int64_t count,
                           const mfai_rows_room_t *room) {
    const int64_t wanted = mfai_rows_ahead(view), ahead = smaller(wanted, count); /* few rows: a short table */
    const int64_t padded = count + (count % MFAI_ROWS_PADDING == 0 ? 0 : MFAI_ROWS_PADDING);
    const bool contiguous = mfai_rows_are_contiguous(view);
    const int64_t step = contiguous ? mfai_view_step(view) : view->shape[3] * mfai_view_element(view);
    const char *block = room->copy;
    if (contiguous && is_paged(view)) {
        fill_paged(view, b, h, first, count, room->table);
        block = room->zeros;
    } else {
        if (contiguous)
            block = mfai_view_row(view, b, h, first);
        else
            gather_rows(view, b, h, first, mfa_span_of(0, count), room->copy);
        fill(room->table, mfa_span_of(0, count), block, step);
    }
    for (int64_t i = count; i < padded; ++i)
        room->table[i] = room->zeros;
    fill(room->table, mfa_span_of(padded, padded + ahead), block, step); /* never read; the next head may lie there */
    return (mfai_rows_t){
        .row = room->table, .count = count, .ahead = ahead, .columns = view->shape[3], .format = view->format};
}
