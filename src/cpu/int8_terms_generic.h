/* Scales and zero points as floats. */

static float read_number(const mfai_view_t *numbers, const char *at) {
    float number[VL];
    read_numbers(at, numbers->format, 1, 1, number);
    return number[0];
}

/* Terms that do not vary from row to row, one for each of so many columns. */
static void find_column_terms(const mfai_quantization_t *quantization, const mfai_view_t *terms, int64_t b, int64_t h,
                              int64_t columns, float *to) {
    const mfai_layout_t *layout = terms->layout;
    const int64_t batch = layout != NULL && layout->places != NULL ? layout->places[b].batch : b;
    const char *first = terms->data + mfai_view_offset(terms, batch * terms->stride[0] + h * terms->stride[1]);
    if (quantization->columns == 1) {
        read_numbers(first, terms->format, terms->stride[3], columns, to);
        return;
    }
    const int64_t group = quantization->columns == 0 ? columns : quantization->columns;
    for (int64_t c = 0; c < columns; c += group) {
        const float term = read_number(terms, first + mfai_view_offset(terms, c / group * terms->stride[3]));
        for (int64_t i = c; i < c + group && i < columns; ++i)
            to[i] = term;
    }
}

/* Those of rows first .. first + count - 1 of sequence b, in the group of columns; floats
   may follow them in `to`, up to a vector. */
static void find_row_terms(const mfai_quantization_t *quantization, const mfai_view_t *terms, int64_t b, int64_t h,
                           int64_t first, int64_t count, int64_t group, float *to) {
    const mfai_layout_t *layout = terms->layout;
    const int64_t shared = quantization->rows == 0 ? INT64_MAX : quantization->rows;
    const int64_t step = terms->stride[2];
    for (int64_t i = 0, run; i < count; i += run) {
        run = count - i;
        mfai_place_t at = {b, first + i};
        if (layout != NULL) {
            at = mfai_layout_place(layout, b, first + i);
            if (layout->pages != NULL && layout->page_rows - at.row < run)
                run = layout->page_rows - at.row;
        }
        const int64_t start = at.batch * terms->stride[0] + h * terms->stride[1] + group * terms->stride[3];
        if (shared == 1) {
            read_numbers(terms->data + mfai_view_offset(terms, start + at.row * step), terms->format, step, run,
                         to + i);
            continue;
        }
        for (int64_t j = 0, line_end; j < run; j = line_end) {
            const int64_t line = (at.row + j) / shared;
            line_end = quantization->rows == 0 ? run : (line + 1) * shared - at.row;
            const float term = read_number(terms, terms->data + mfai_view_offset(terms, start + line * step));
            for (int64_t k = j; k < line_end && k < run; ++k)
                to[i + k] = term;
        }
    }
}

/* The group of columns that a group of sums lies in. */
static int64_t term_group(const mfai_quantization_t *quantization, const mfai_cpu_int8_side_t *side, int64_t group) {
    return quantization->columns == 0 ? 0 : group * side->group_columns / quantization->columns;
}
