/* Room for what the codes of a block of rows are scaled by: lines of scales, and of zero points. */
#ifndef MFA_CPU_CODE_SCALES_H
#define MFA_CPU_CODE_SCALES_H

#include "core/problem.h"
#include "cpu/sizes.h"

/* No codes; or a line has one scale for a row; or one for each 32 columns, which more may share; or one for each. */
typedef enum { MFAI_UNSCALED, MFAI_SCALED_ROWS, MFAI_SCALED_GROUPS, MFAI_SCALED_COLUMNS } mfai_cpu_scaled_t;

enum { MFAI_CPU_SCALE_COLUMNS = 32 };

/* What codes of a block of rows are scaled by. */
typedef struct {
    mfai_cpu_scaled_t kind;
    const int32_t *line;         /* of each row, where its line begins in scales and zeros */
    const float *scales, *zeros; /* MFAI_SCALED_ROWS: one for each row */
    const float *mean;           /* of each column */
    uint32_t bits;               /* that make a float of a code, as vf_load_bytes_n has it */
    bool centred;                /* signed codes without zero points: their numbers are what is scaled */
} mfai_cpu_scales_t;

typedef struct {
    mfai_cpu_scaled_t kind;
    int64_t width;             /* of a line */
    int64_t scales, zeros;     /* offsets in floats; behind the numbers of the rows' lines */
    int64_t mean, mean_floats; /* at least the columns */
    int64_t size;
} mfai_cpu_scale_room_t;

static inline mfai_cpu_scaled_t mfai_cpu_scaled(const mfai_view_t *codes, const mfai_quantization_t *quantization) {
    if (!mfai_view_has_codes(codes))
        return MFAI_UNSCALED;
    const int64_t columns = quantization->columns;
    if (columns > 0 && columns < codes->shape[3])
        return columns == 1 ? MFAI_SCALED_COLUMNS : MFAI_SCALED_GROUPS;
    return quantization->mean.present ? MFAI_SCALED_GROUPS : MFAI_SCALED_ROWS;
}

/* The most lines of a block of rows. */
static inline int64_t mfai_cpu_most_lines(const mfai_view_t *codes, const mfai_quantization_t *quantization,
                                          int64_t rows) {
    const bool paged = codes->layout != NULL && codes->layout->pages != NULL;
    const int64_t runs = paged ? rows / codes->layout->page_rows + 2 : 1;
    return mfai_clamp(quantization->rows == 0 ? runs : rows / quantization->rows + 2 * runs, 1, rows);
}

/* For blocks of at most so many rows. */
static inline mfai_cpu_scale_room_t mfai_cpu_scale_room(const mfai_view_t *codes,
                                                        const mfai_quantization_t *quantization, int64_t rows) {
    mfai_cpu_scale_room_t room = {.kind = mfai_cpu_scaled(codes, quantization)};
    room.mean_floats = mfai_round_up(codes->shape[3], MFAI_CPU_SCALE_COLUMNS);
    room.width = room.kind == MFAI_SCALED_ROWS     ? 1
                 : room.kind == MFAI_SCALED_GROUPS ? room.mean_floats / MFAI_CPU_SCALE_COLUMNS
                                                   : room.mean_floats;
    const int64_t padded = rows + MFAI_ROWS_PADDING;
    const int64_t lines =
        room.kind == MFAI_SCALED_ROWS ? padded : mfai_cpu_most_lines(codes, quantization, rows) * room.width;
    (void)mfai_cpu_take(&room.size, padded);
    room.scales = mfai_cpu_take(&room.size, lines + MFAI_ROWS_PADDING);
    room.zeros = mfai_cpu_take(&room.size, lines + MFAI_ROWS_PADDING);
    room.mean = mfai_cpu_take(&room.size, room.mean_floats);
    return room;
}

/* Floats for them, and for a row of codes whose elements lie apart; none for what are no codes. */
static inline int64_t mfai_cpu_code_floats(const mfai_view_t *view, const mfai_quantization_t *quantization,
                                           int64_t rows) {
    if (!mfai_view_has_codes(view))
        return 0;
    return mfai_cpu_scale_room(view, quantization, rows).size + mfai_cpu_lines(mfai_ceil_div(view->shape[3], 4));
}

#endif
