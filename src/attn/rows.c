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

/* All but the distance to what is prefetched. */
static mfai_spaced_rows_t locate(const mfai_view_t *view, int64_t b, int64_t h, int64_t first, mfa_span rows,
                                 const mfai_rows_room_t *room) {
    mfai_spaced_rows_t spaced = {
        .step = mfai_view_step(view), .columns = view->shape[3], .format = view->format, .zeros = room->zeros};
    if (mfai_rows_are_contiguous(view)) {
        spaced.first = mfai_view_row(view, b, h, first + rows.begin) - rows.begin * spaced.step;
        return spaced;
    }
    spaced.first = room->copy;
    spaced.step = view->shape[3] * mfai_view_element(view);
    for (int64_t i = rows.begin; i < rows.end; ++i)
        mfai_gather_row(view, mfai_view_row(view, b, h, first + i), room->copy + i * spaced.step);
    return spaced;
}

int64_t mfai_rows_run(const mfai_view_t *view, int64_t b, int64_t first, int64_t count) {
    if (view->layout == NULL || view->layout->pages == NULL || !mfai_rows_are_contiguous(view))
        return count;
    const int64_t in_page = view->layout->page_rows - mfai_layout_place(view->layout, b, first).row;
    return in_page < count ? in_page : count;
}

mfai_spaced_rows_t mfai_rows_space(const mfai_view_t *view, int64_t b, int64_t h, int64_t first, mfa_span rows,
                                   const mfai_rows_room_t *room) {
    mfai_spaced_rows_t spaced = locate(view, b, h, first, rows, room);
    spaced.ahead = mfai_rows_ahead(view) * spaced.step;
    return spaced;
}

static void fill(const char **table, mfa_span rows, const mfai_spaced_rows_t *spaced) {
    for (int64_t i = rows.begin; i < rows.end; ++i)
        table[i] = spaced->first + i * spaced->step;
}

mfai_rows_t mfai_rows_find(const mfai_view_t *view, int64_t b, int64_t h, int64_t first, int64_t count,
                           const mfai_rows_room_t *room) {
    mfai_spaced_rows_t spaced = {.first = room->zeros};
    const int64_t wanted = mfai_rows_ahead(view), ahead = wanted < count ? wanted : count; /* few rows: a short table */
    const int64_t padded = count + (count % MFAI_ROWS_PADDING == 0 ? 0 : MFAI_ROWS_PADDING);
    for (int64_t i = 0; i < count;) {
        const mfa_span run = mfa_span_of(i, i + mfai_rows_run(view, b, first + i, count - i));
        spaced = locate(view, b, h, first, run, room);
        fill(room->table, run, &spaced);
        i = run.end;
    }
    for (int64_t i = count; i < padded; ++i)
        room->table[i] = room->zeros;
    fill(room->table, mfa_span_of(padded, padded + ahead), &spaced); /* never read; the next head may lie there */
    return (mfai_rows_t){
        .row = room->table, .count = count, .ahead = ahead, .columns = view->shape[3], .format = view->format};
}
