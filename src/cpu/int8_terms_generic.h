/* Scales and zero points as floats. */

/* So many scales or zero points, `stride` elements apart. */
static void load_terms(const mfai_view_t *terms, const char *first, int64_t stride, int64_t count, float *to) {
    const int32_t format = terms->format;
    if (stride == 1 && format == MFAI_FORMAT_FP32) {
        memcpy(to, first, (size_t)count * sizeof *to);
        return;
    }
    for (int64_t i = 0; i < count; ++i, first += mfai_view_offset(terms, stride))
        switch (format) {
        case MFAI_FORMAT_FP32:
            memcpy(&to[i], first, sizeof to[i]);
            break;
        case MFAI_FORMAT_FP16:
            to[i] = mfai_f16_to_f32(*(const uint16_t *)(const void *)first);
            break;
        case MFAI_FORMAT_INT8:
            to[i] = *(const int8_t *)first;
            break;
        case MFAI_FORMAT_UINT8:
            to[i] = *(const uint8_t *)first;
            break;
        default: /* MFAI_FORMAT_INT32 */
            to[i] = (float)*(const int32_t *)(const void *)first;
        }
}

static float load_term(const mfai_view_t *terms, const char *at) {
    float term;
    load_terms(terms, at, 0, 1, &term);
    return term;
}

/* Terms that do not vary from row to row, one for each of so many columns. */
static void find_column_terms(const mfai_quantization_t *quantization, const mfai_view_t *terms, int64_t b, int64_t h,
                              int64_t columns, float *to) {
    const mfai_layout_t *layout = terms->layout;
    const int64_t batch = layout != NULL && layout->places != NULL ? layout->places[b].batch : b;
    const char *first = terms->data + mfai_view_offset(terms, batch * terms->stride[0] + h * terms->stride[1]);
    if (quantization->columns == 1) {
        load_terms(terms, first, terms->stride[3], columns, to);
        return;
    }
    const int64_t group = quantization->columns == 0 ? columns : quantization->columns;
    for (int64_t c = 0; c < columns; c += group) {
        const float term = load_term(terms, first + mfai_view_offset(terms, c / group * terms->stride[3]));
        for (int64_t i = c; i < c + group && i < columns; ++i)
            to[i] = term;
    }
}

/* Those of rows first .. first + count - 1 of sequence b, in the group of columns. */
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
            load_terms(terms, terms->data + mfai_view_offset(terms, start + at.row * step), step, run, to + i);
            continue;
        }
        for (int64_t j = 0, line_end; j < run; j = line_end) {
            const int64_t line = (at.row + j) / shared;
            line_end = quantization->rows == 0 ? run : (line + 1) * shared - at.row;
            const float term = load_term(terms, terms->data + mfai_view_offset(terms, start + line * step));
            for (int64_t k = j; k < line_end && k < run; ++k)
                to[i + k] = term;
        }
    }
}

/* The group of columns that a group of sums lies in. */
static int64_t term_group(const mfai_quantization_t *quantization, const mfai_cpu_int8_side_t *side, int64_t group) {
    return quantization->columns == 0 ? 0 : group * side->group_columns / quantization->columns;
}
