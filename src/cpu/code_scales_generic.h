/*
 * What the codes of a block of rows are scaled by, as floats. A code is loaded as the float 2^23 + code, as if it were
 * unsigned, which takes no conversion; zero points carry as much, so that the difference is the code's, and exact.
 */
#define CODE_BASE 0x1p23f

/* Numbers `stride` elements apart as floats; floats may follow them in `to`, up to a vector. */
static void read_numbers(const char *from, int32_t format, int64_t stride, int64_t count, float *to) {
    if (MFAI_FLOATING >> format & 1 && stride == 1) {
#define READ(format)                        \
    for (int64_t i = 0; i < count; i += VL) \
        vf_store(to + i, load_converted(from, format, i, count - i < VL ? (int)(count - i) : VL));
        WITH_FORMAT(format, READ)
#undef READ
        return;
    }
    switch (format) {
    case MFAI_FORMAT_FP32:
        for (int64_t i = 0; i < count; ++i)
            to[i] = ((const float *)(const void *)from)[i * stride];
        return;
    case MFAI_FORMAT_FP16:
        for (int64_t i = 0; i < count; ++i)
            to[i] = mfai_f16_to_f32(((const uint16_t *)(const void *)from)[i * stride]);
        return;
    case MFAI_FORMAT_INT8:
        for (int64_t i = 0; i < count; ++i)
            to[i] = ((const int8_t *)from)[i * stride];
        return;
    case MFAI_FORMAT_UINT8:
        for (int64_t i = 0; i < count; ++i)
            to[i] = ((const uint8_t *)from)[i * stride];
        return;
    default: /* MFAI_FORMAT_INT32 */
        for (int64_t i = 0; i < count; ++i)
            to[i] = (float)((const int32_t *)(const void *)from)[i * stride];
    }
}

/* A tensor of scales or zero points, and where its lines go. */
typedef struct {
    const mfai_view_t *view;
    float absent; /* stands for each if the view is not present */
    float added;
    float *to;
} lines_t;

static void add_to_each(float *to, int64_t count, float added) {
    for (int64_t i = 0; i < count; ++i)
        to[i] += added;
}

/* `count` of them, from the one that `element` elements lead to, behind `at` others. */
static void read_lines(const lines_t *lines, int64_t element, int64_t stride, int64_t count, int64_t at) {
    if (!lines->view->present) {
        for (int64_t i = 0; i < count; ++i)
            lines->to[at + i] = lines->absent;
        return;
    }
    read_numbers(lines->view->data + mfai_view_offset(lines->view, element), lines->view->format, stride, count,
                 lines->to + at);
    if (lines->added != 0)
        add_to_each(lines->to + at, count, lines->added);
}

static int64_t element_of(const lines_t *lines, const mfai_quantization_t *quantization, mfai_place_t at, int64_t h) {
    const int64_t *stride = lines->view->stride;
    return at.batch * stride[0] + h * stride[1] + mfai_scale_line(quantization, at.row) * stride[2];
}

/* Lines of rows that follow each other, behind `first` numbers. */
static void read_row_lines(const lines_t *lines, const mfai_quantization_t *quantization,
                           const mfai_cpu_scale_room_t *room, mfai_place_t at, int64_t h, int64_t first,
                           int64_t count) {
    const int64_t stride = room->kind == MFAI_SCALED_ROWS ? lines->view->stride[2] : 1;
    read_lines(lines, element_of(lines, quantization, at, h), stride, count * room->width, first);
}

/* Of `count` rows that share one, behind `first` others. */
static void repeat_scale(const lines_t *lines, const mfai_quantization_t *quantization, mfai_place_t at, int64_t h,
                         int64_t first, int64_t count) {
    read_lines(lines, element_of(lines, quantization, at, h), 0, 1, first);
    for (int64_t i = 1; i < count; ++i)
        lines->to[first + i] = lines->to[first];
}

/* A line with one for each 32 columns, or for each, behind `first` numbers. */
static void read_line(const lines_t *lines, const mfai_quantization_t *quantization, const mfai_cpu_scale_room_t *room,
                      mfai_place_t at, int64_t h, int64_t first) {
    const mfai_view_t *view = lines->view;
    const int64_t count = view->present ? view->shape[3] : 1;
    float *to = lines->to + first;
    read_lines(lines, element_of(lines, quantization, at, h), view->stride[3], count, first);
    if (count == room->width)
        return;
    const int64_t shared = count == 1 ? room->width : quantization->columns / MFAI_CPU_SCALE_COLUMNS;
    if (room->kind == MFAI_SCALED_GROUPS || !view->present)
        for (int64_t i = room->width - 1; i > 0; --i)
            to[i] = to[i / shared];
}

static void read_mean(const mfai_quantization_t *quantization, int64_t b, int64_t h, int64_t floats, float *mean) {
    const mfai_view_t *view = &quantization->mean;
    memset(mean, 0, (size_t)floats * sizeof *mean);
    if (view->present)
        read_numbers(view->data + mfai_view_offset(view, b * view->stride[0] + h * view->stride[1]), view->format,
                     view->stride[3], view->shape[3], mean);
}

/* Whether lines lie one behind the other as they are to be. */
static bool are_dense(const mfai_view_t *view, const mfai_cpu_scale_room_t *room) {
    return room->kind == MFAI_SCALED_ROWS || !view->present ||
           (view->shape[3] == room->width && view->stride[3] == 1 && view->stride[2] == room->width);
}

/* How many rows, of so many, lie side by side from this one on and, unless `each` has a line of its own, share one. */
static int64_t alike_rows(const mfai_view_t *codes, const mfai_quantization_t *quantization, mfai_place_t at, bool each,
                          int64_t rows) {
    if (codes->layout != NULL && codes->layout->pages != NULL)
        rows = mfai_clamp(codes->layout->page_rows - at.row, 1, rows);
    if (each || quantization->rows == 0)
        return rows;
    return mfai_clamp(quantization->rows - at.row % quantization->rows, 1, rows);
}

/* Those of rows first + rows.begin .. first + rows.end - 1 of one head; their numbers count from `first`. `memory` has
   room for them, of blocks of at most `most` rows. Where each row has one scale, vectors of these that hold other rows
   have zeros for them. */
static mfai_cpu_scales_t find_scales(const mfai_view_t *codes, const mfai_quantization_t *quantization, int64_t b,
                                     int64_t h, int64_t first, mfa_span rows, int64_t most, float *memory) {
    if (!mfai_view_has_codes(codes))
        return (mfai_cpu_scales_t){.kind = MFAI_UNSCALED};
    const mfai_cpu_scale_room_t room = mfai_cpu_scale_room(codes, quantization, most);
    const mfai_format_t *format = &mfai_formats[codes->format];
    const uint32_t flip = format->is_signed ? 1u << (format->bits - 1) : 0;
    const float base = CODE_BASE + (float)flip;
    int32_t *line = (int32_t *)(void *)memory;
    float *scales = memory + room.scales;
    const lines_t tensors[] = {{&quantization->scales, 1, 0, scales},
                               {&quantization->zero_points, base, base, memory + room.zeros}};
    const bool each = quantization->rows == 1 && are_dense(&quantization->scales, &room) &&
                      are_dense(&quantization->zero_points, &room);
    int64_t taken = room.kind == MFAI_SCALED_ROWS ? rows.begin : 0, count;
    for (int64_t i = rows.begin; i < rows.end; i += count) {
        mfai_place_t at = {b, first + i};
        if (codes->layout != NULL)
            at = mfai_layout_place(codes->layout, b, first + i);
        count = alike_rows(codes, quantization, at, each, rows.end - i);
        for (int t = 0; t < 2; ++t)
            if (each)
                read_row_lines(&tensors[t], quantization, &room, at, h, taken, count);
            else if (room.kind == MFAI_SCALED_ROWS)
                repeat_scale(&tensors[t], quantization, at, h, taken, count);
            else
                read_line(&tensors[t], quantization, &room, at, h, taken);
        for (int64_t k = 0; k < count; ++k)
            line[i + k] = (int32_t)(taken + (each ? k * room.width : 0));
        taken += each || room.kind == MFAI_SCALED_ROWS ? count * room.width : room.width;
    }
    if (room.kind == MFAI_SCALED_ROWS) {
        for (int64_t i = rows.begin / VL * VL; i < rows.begin; ++i)
            scales[i] = 0;
        for (int64_t i = rows.end; i % VL != 0; ++i)
            scales[i] = 0;
    }
    read_mean(quantization, b, h, room.mean_floats, memory + room.mean);
    return (mfai_cpu_scales_t){.kind = room.kind,
                               .line = line,
                               .scales = scales,
                               .zeros = memory + room.zeros,
                               .mean = memory + room.mean,
                               .bits = mfai_f32_to_bits(CODE_BASE) | flip,
                               .centred = format->is_signed && !quantization->zero_points.present};
}
