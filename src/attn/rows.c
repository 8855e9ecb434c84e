#include "attn/rows.h"

#include <string.h>

/* `size` is a constant wherever this is called, so that the copy of an element is a load and a store. */
static inline void gather(const char *row, int64_t stride, int64_t columns, const int64_t size, char *copy) {
    for (int64_t c = 0; c < columns; ++c)
        memcpy(copy + c * size, row + c * stride * size, (size_t)size);
}

void mfai_gather_row(const mfai_view_t *view, const char *row, char *copy) {
    const int64_t stride = view->stride[3], columns = view->shape[3], size = mfai_view_element(view);
    switch (size) {
    case 4:
        gather(row, stride, columns, 4, copy);
        return;
    case 2:
        gather(row, stride, columns, 2, copy);
        return;
    default:
        gather(row, stride, columns, size, copy);
    }
}

/* Evenly spaced addresses from `begin` on. */
static void fill(const char **table, mfa_span rows, const char *first, int64_t step) {
    for (int64_t i = rows.begin; i < rows.end; ++i)
        table[i] = first + i * step;
}

static void fill_zeros(const char **table, int64_t begin, int64_t end, const char *zeros) {
    for (int64_t i = begin; i < end; ++i)
        table[i] = zeros;
}

mfai_rows_t mfai_rows_find(const mfai_view_t *view, int64_t b, int64_t h, int64_t first, mfa_span rows,
                           const mfai_rows_room_t *room) {
    const char **table = room->table + 1; /* a pair may lack its first row */
    const char *source = mfai_view_row(view, b, h, first);
    const int64_t ahead = mfai_rows_ahead(view), step = mfai_view_step(view);
    const bool is_whole = rows.begin == 0 && rows.end % MFAI_ROWS_PADDING == 0;
    const int64_t padded = rows.end + (is_whole ? 0 : MFAI_ROWS_PADDING), end = padded + ahead;
    table[rows.begin - 1] = room->zeros;
    fill_zeros(table, rows.end, padded, room->zeros);
    int64_t coming = padded; /* only to be prefetched */
    if (mfai_rows_are_contiguous(view)) {
        const int64_t left = view->shape[2] - first;
        coming = left < padded ? padded : left < end ? left : end;
        fill(table, rows, source, step);
        fill(table, mfa_span_of(padded, coming), source, step);
    } else {
        const int64_t bytes = view->shape[3] * mfai_view_element(view);
        for (int64_t i = rows.begin; i < rows.end; ++i)
            mfai_gather_row(view, source + i * step, room->copy + i * bytes);
        fill(table, rows, room->copy, bytes);
    }
    fill_zeros(table, coming, end, room->zeros);
    return (mfai_rows_t){
        .row = table, .count = rows.end, .ahead = ahead, .columns = view->shape[3], .format = view->format};
}
