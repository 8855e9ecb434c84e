/* Codes as what they stand for, in registers or a block of rows. A storage format is a loader, not a kernel. */

/* Calls `call` with a format as wide as the codes' as a constant: their sign is in mfai_cpu_scales_t. */
#define WITH_CODES(format, call) \
    switch (format) {            \
    case MFAI_FORMAT_INT4:       \
    case MFAI_FORMAT_UINT4:      \
        call(MFAI_FORMAT_UINT4); \
        break;                   \
    default: /* of eight bits */ \
        call(MFAI_FORMAT_UINT8); \
    }

/* A row of codes from some column on, and what it is scaled by there. */
typedef struct {
    const char *codes;
    const float *scale, *zero, *mean;
    uint32_t bits;
} code_row_t;

/* Row j, from a column on that begins a byte. */
INLINE code_row_t code_row(const mfai_cpu_scaled_t kind, const int32_t format, const char *row,
                           const mfai_cpu_scales_t *scales, int64_t j, int64_t column) {
    const int64_t line = kind == MFAI_SCALED_ROWS ? j : scales->line[j];
    const int64_t at = line + (kind == MFAI_SCALED_ROWS     ? 0
                               : kind == MFAI_SCALED_GROUPS ? column / MFAI_CPU_SCALE_COLUMNS
                                                            : column);
    return (code_row_t){row + mfai_format_bytes(format, column), scales->scales + at, scales->zeros + at,
                        scales->mean + column, scales->bits};
}

/* As CODE_BASE says; of codes that are not there, from the n-th lane on, as if they were 0. */
INLINE vf load_codes(const char *row, const int32_t format, uint64_t at, int n, uint32_t bits) {
    return format == MFAI_FORMAT_UINT4 ? vf_load_nibbles_n(row + at / 2, n, bits) : vf_load_bytes_n(row + at, n, bits);
}

/* Zero in place of lanes from the n-th on. */
INLINE vf first_lanes(vf x, int n) {
    static const float numbers[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return vf_select_less(vf_load(numbers), vf_set1((float)n), x, vf_zero());
}

INLINE vf load_real_lanes(const mfai_cpu_scaled_t kind, const bool has_mean, const int32_t format,
                          const code_row_t *row, uint64_t at, int n) {
    if (kind == MFAI_SCALED_ROWS && format == MFAI_FORMAT_INT8 && n >= VL)
        return vf_load_signed_bytes(row->codes + at);
    const vf code = load_codes(row->codes, format, at, n, row->bits);
    if (kind == MFAI_SCALED_ROWS)
        return vf_sub(code, vf_set1(*row->zero));
    const bool each = kind == MFAI_SCALED_COLUMNS;
    const uint64_t group = at / MFAI_CPU_SCALE_COLUMNS;
    const vf shifted = vf_sub(code, each ? vf_load(row->zero + at) : vf_set1(row->zero[group]));
    const vf scale = each ? vf_load(row->scale + at) : vf_set1(row->scale[group]);
    return has_mean ? vf_fma(scale, shifted, vf_load(row->mean + at)) : vf_mul(scale, shifted);
}

/* Elements at .. at + n - 1 behind the row's first as floats, zero in the other lanes; of kind MFAI_SCALED_ROWS, but for
   the row's scale. A group of columns that `at` divides begins with the row's first. MFAI_FORMAT_INT8 stands for codes of
   eight bits that are centred. */
INLINE vf load_real(const mfai_cpu_scaled_t kind, const bool has_mean, const int32_t format, const code_row_t *row,
                    uint64_t at, int n) {
    const vf real = load_real_lanes(kind, has_mean, format, row, at, n);
    return n >= VL ? real : first_lanes(real, n);
}

/* What words are made of: floats, or pairs of bfloat16. */
enum { REAL_FORMAT = WORD_DEPTH == 2 ? MFAI_FORMAT_BF16 : MFAI_FORMAT_FP32 };

INLINE void dequantise_row(const mfai_cpu_scaled_t kind, const int32_t format, const char *row, int64_t columns,
                           const mfai_cpu_scales_t *scales, int64_t j, char *to) {
    const vf factor = vf_set1(kind == MFAI_SCALED_ROWS ? scales->scales[j] : 1);
    const code_row_t codes = code_row(kind, format, row, scales, j, 0);
    for (int64_t at = 0; at < columns; at += VL) {
        const int n = columns - at < VL ? (int)(columns - at) : VL;
        const vf real = load_real(kind, true, format, &codes, (uint64_t)at, n);
        store_converted(to, REAL_FORMAT, at, kind == MFAI_SCALED_ROWS ? vf_mul(real, factor) : real, n);
    }
}

INLINE void dequantise_row_as(const int32_t format, const char *row, int64_t columns, const mfai_cpu_scales_t *scales,
                              int64_t j, char *to) {
    switch (scales->kind) {
    case MFAI_SCALED_ROWS:
        dequantise_row(MFAI_SCALED_ROWS, format, row, columns, scales, j, to);
        return;
    case MFAI_SCALED_GROUPS:
        dequantise_row(MFAI_SCALED_GROUPS, format, row, columns, scales, j, to);
        return;
    default:
        dequantise_row(MFAI_SCALED_COLUMNS, format, row, columns, scales, j, to);
    }
}

/* As mfai_rows_find, which it is for floats; of codes, what they stand for is in room->copy. `memory` has room for
   their scales, of blocks of at most `most` rows, and then for a row of codes. */
static mfai_rows_t find_real_rows(const mfai_view_t *view, const mfai_quantization_t *quantization, int64_t b,
                                  int64_t h, int64_t first, int64_t count, const mfai_rows_room_t *room, int64_t most,
                                  float *memory) {
    if (!mfai_view_has_codes(view))
        return mfai_rows_find(view, b, h, first, count, room);
    const mfai_cpu_scales_t scales = find_scales(view, quantization, b, h, first, mfa_span_of(0, count), most, memory);
    char *const codes = (char *)(memory + mfai_cpu_scale_room(view, quantization, most).size);
    const int64_t columns = view->shape[3], step = mfai_format_bytes(REAL_FORMAT, columns);
    for (int64_t j = 0; j < count; ++j) {
        const char *row = mfai_row_find(view, b, h, first + j, codes);
        char *to = room->copy + j * step;
#define DEQUANTISE(format) dequantise_row_as(format, row, columns, &scales, j, to)
        WITH_CODES(view->format, DEQUANTISE)
#undef DEQUANTISE
        room->table[j] = to;
    }
    for (int64_t j = count; j < mfai_round_up(count, MFAI_ROWS_PADDING); ++j)
        room->table[j] = room->zeros;
    return (mfai_rows_t){.row = room->table, .count = count, .columns = columns, .format = REAL_FORMAT};
}
