#include "core/quantization.h"

#include <inttypes.h>
#include <math.h>

#include "core/half.h"
#include "core/integers.h"

mfa_status_t mfai_quantization_set(const char *name, const mfa_quantization_t *given,
                                   mfai_quantization_t *quantization) {
    MFAI_REQUIRE(given->reserved == 0, "%s.reserved is %u, expected 0", name, given->reserved);
    MFAI_REQUIRE(given->rows >= 0, "%s.rows is %" PRId64 ", expected 0 (all) or more", name, given->rows);
    MFAI_REQUIRE(given->columns == 0 || given->columns == 1 || (given->columns > 0 && given->columns % 32 == 0),
                 "%s.columns is %" PRId64 ", expected 0 (all), 1 or a multiple of 32", name, given->columns);
    quantization->rows = given->rows;
    quantization->columns = given->columns;
    return MFA_SUCCESS;
}

static mfa_status_t check_format(const char *name, const mfai_view_t *view, const mfai_quantization_t *quantization,
                                 const mfai_problem_t *p) {
    const char *const format = mfai_formats[view->format].name, *const queries = mfai_formats[p->query.format].name;
    if (mfai_view_has_codes(view)) {
        MFAI_REQUIRE(quantization->scales.present, "%s.precision is %s, but %s_quantization is NULL", name, format,
                     name);
        MFAI_REQUIRE(quantization->zero_points.present || mfai_formats[view->format].is_signed,
                     "%s_quantization.zero_points is NULL, expected zero points for %s codes", name, format);
        return MFA_SUCCESS;
    }
    MFAI_REQUIRE(view->format == p->query.format, "%s.precision is %s, expected query's, %s", name, format, queries);
    MFAI_REQUIRE(!quantization->scales.present, "%s_quantization is set, but %s.precision is %s, no codes", name, name,
                 format);
    return MFA_SUCCESS;
}

mfa_status_t mfai_quantization_check_formats(const mfai_problem_t *p) {
    MFAI_TRY(check_format("key", &p->key, &p->key_quantization, p));
    return check_format("value", &p->value, &p->value_quantization, p);
}

/* ------------------------------------------------------------------ values */

/* Elements of one line of scales or zero points, and what they may be. */
typedef struct {
    const char *name;
    const mfai_view_t *view;
    int32_t lowest, highest; /* of zero points */
} checked_t;

/* Bits of positive finite floats are numbers from 1 to the largest's: none of the differences is negative. */
static bool are_positive(const char *first, int32_t format, int64_t stride, int64_t count) {
    uint32_t signs = 0;
    if (format == MFAI_FORMAT_FP16)
        for (int64_t i = 0; i < count; ++i) {
            const uint32_t bits = ((const uint16_t *)(const void *)first)[i * stride];
            signs |= (bits - 1) | (0x7bff - bits);
        }
    else
        for (int64_t i = 0; i < count; ++i) {
            const uint32_t bits = ((const uint32_t *)(const void *)first)[i * stride];
            signs |= (bits - 1) | (0x7f7fffff - bits);
        }
    return signs >> 31 == 0;
}

static int32_t whole_at(const char *first, int32_t format, int64_t at) {
    switch (format) {
    case MFAI_FORMAT_INT8:
        return ((const int8_t *)first)[at];
    case MFAI_FORMAT_UINT8:
        return ((const uint8_t *)first)[at];
    default:
        return ((const int32_t *)(const void *)first)[at];
    }
}

/* Ranges are powers of two: a difference that leaves one has a bit that none inside it has. */
static bool are_codes(const checked_t *checked, const char *first, int64_t stride, int64_t count) {
    const int32_t format = checked->view->format;
    const uint32_t lowest = (uint32_t)checked->lowest, range = (uint32_t)checked->highest - lowest;
    uint32_t seen = 0;
#define LOOK(type)                      \
    for (int64_t i = 0; i < count; ++i) \
        seen |= (uint32_t)((const type *)(const void *)first)[i * stride] - lowest;
    if (format == MFAI_FORMAT_INT8)
        LOOK(int8_t)
    else if (format == MFAI_FORMAT_UINT8)
        LOOK(uint8_t)
    else
        LOOK(int32_t)
#undef LOOK
    return seen <= range;
}

static bool are_right(const checked_t *checked, const char *first, int64_t stride, int64_t count) {
    return MFAI_FLOATING >> checked->view->format & 1 ? are_positive(first, checked->view->format, stride, count)
                                                      : are_codes(checked, first, stride, count);
}

static float scale_at(const char *element, int32_t format) {
    if (format == MFAI_FORMAT_FP16)
        return mfai_f16_to_f32(*(const uint16_t *)(const void *)element);
    return *(const float *)(const void *)element;
}

static mfa_status_t refuse(const checked_t *checked, const int64_t at[4], const char *element) {
    if (MFAI_FLOATING >> checked->view->format & 1)
        return mfai_fail(MFA_ERROR_INVALID_ARGS,
                         "%s[%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64
                         "] is %g, expected a positive finite number",
                         checked->name, at[0], at[1], at[2], at[3], scale_at(element, checked->view->format));
    return mfai_fail(MFA_ERROR_INVALID_ARGS,
                     "%s[%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64 "] is %d, expected %d to %d", checked->name,
                     at[0], at[1], at[2], at[3], whole_at(element, checked->view->format, 0), checked->lowest,
                     checked->highest);
}

/* Elements along an axis, of which those that repeat are looked at once. */
static int64_t distinct(const mfai_view_t *view, int axis, int64_t count) {
    return view->stride[axis] == 0 ? 1 : count;
}

/* Lines `lines` of one batch and head, all columns. */
static mfa_status_t check_lines(const checked_t *checked, int64_t batch, int64_t h, int64_t first_line, int64_t lines) {
    const mfai_view_t *view = checked->view;
    /* The longer axis is the one that is passed through at once. */
    const int inner = lines > view->shape[3] ? 2 : 3, outer = 5 - inner;
    const int64_t counts[4] = {1, 1, distinct(view, 2, lines), distinct(view, 3, view->shape[3])};
    const bool dense = view->stride[3] == 1 && view->stride[2] == view->shape[3];
    const char *const head = view->data + mfai_view_offset(view, batch * view->stride[0] + h * view->stride[1] +
                                                                     first_line * view->stride[2]);
    if (dense && are_right(checked, head, 1, lines * view->shape[3]))
        return MFA_SUCCESS;
    for (int64_t i = 0; i < counts[outer]; ++i) {
        const char *const first = head + mfai_view_offset(view, i * view->stride[outer]);
        if (are_right(checked, first, view->stride[inner], counts[inner]))
            continue;
        int64_t j = 0;
        while (are_right(checked, first + mfai_view_offset(view, j * view->stride[inner]), 0, 1))
            ++j;
        const int64_t line = first_line + (inner == 2 ? j : i), column = inner == 2 ? i : j;
        const int64_t at[4] = {batch, h, line, column};
        return refuse(checked, at, first + mfai_view_offset(view, j * view->stride[inner]));
    }
    return MFA_SUCCESS;
}

enum { LINES_AT_ONCE = 4096 };

/* Scales or zero points of a call, in pieces: LINES_AT_ONCE lines of one head and sequence. */
typedef struct {
    checked_t checked;
    const mfai_quantization_t *quantization;
    int64_t batches, heads, rows, blocks; /* rows of a block, blocks of a head */
} checked_part_t;

enum { CHECKED_PARTS = 4 };

static checked_part_t part_of(const mfai_problem_t *p, int number) {
    static const char *const names[CHECKED_PARTS] = {"key_quantization.scales", "key_quantization.zero_points",
                                                     "value_quantization.scales", "value_quantization.zero_points"};
    const mfai_view_t *codes = number < 2 ? &p->key : &p->value;
    const mfai_quantization_t *quantization = number < 2 ? &p->key_quantization : &p->value_quantization;
    const mfai_view_t *view = number % 2 == 0 ? &quantization->scales : &quantization->zero_points;
    checked_part_t part = {.quantization = quantization};
    const bool listed = p->features & MFAI_SEQUENCES;
    if (!mfai_view_has_codes(codes) || !view->present || mfai_view_is_on_device(view) ||
        (listed && p->lengths == NULL) || p->key_count == 0 || mfai_view_is_empty(view))
        return part;
    part.checked = (checked_t){.name = names[number],
                               .view = view,
                               .lowest = mfai_format_lowest(codes->format),
                               .highest = mfai_format_highest(codes->format)};
    part.batches = listed ? p->batch : distinct(view, 0, p->batch);
    part.heads = distinct(view, 1, view->shape[1]);
    part.rows = p->key_count;
    if (quantization->rows > 0 && quantization->rows < p->key_count / LINES_AT_ONCE && view->stride[2] != 0)
        part.rows = quantization->rows * LINES_AT_ONCE;
    part.blocks = (p->key_count - 1) / part.rows + 1;
    return part;
}

static int64_t pieces_of(const checked_part_t *part) { return part->batches * part->heads * part->blocks; }

/* Those of rows that the sequence has before the call. */
static mfa_status_t check_block(const checked_part_t *part, const mfai_problem_t *p, int64_t b, int64_t h,
                                int64_t block) {
    const mfai_view_t *view = part->checked.view;
    const mfai_quantization_t *quantization = part->quantization;
    const int64_t appended = p->lengths != NULL ? p->lengths[b].new : 0;
    const int64_t rows = (p->lengths != NULL ? p->lengths[b].keys : p->key_count) - appended;
    /* A scale of all rows serves those that are appended, too. */
    const int64_t there = quantization->rows == 0 ? rows + appended : rows, first = block * part->rows;
    const int64_t end = there - first > part->rows ? first + part->rows : there;
    for (int64_t row = first; row < end;) {
        mfai_place_t at = {b, row};
        int64_t run = end - row;
        if (view->layout != NULL) {
            at = mfai_layout_place(view->layout, b, row);
            if (view->layout->pages != NULL && view->layout->page_rows - at.row < run)
                run = view->layout->page_rows - at.row;
        }
        const int64_t line = mfai_scale_line(quantization, at.row);
        MFAI_TRY(check_lines(&part->checked, view->shape[0] == 1 ? 0 : at.batch, h, line,
                             mfai_scale_line(quantization, at.row + run - 1) - line + 1));
        row += run;
    }
    return MFA_SUCCESS;
}

int64_t mfai_quantization_pieces(const mfai_problem_t *p, int64_t *numbers) {
    int64_t pieces = 0;
    *numbers = 0;
    for (int i = 0; i < CHECKED_PARTS; ++i) {
        const checked_part_t part = part_of(p, i);
        const int64_t here = pieces_of(&part);
        pieces += here;
        if (here > 0)
            *numbers += here * (part.rows < LINES_AT_ONCE ? part.rows : LINES_AT_ONCE) * part.checked.view->shape[3];
    }
    return pieces;
}

mfa_status_t mfai_quantization_check_piece(const mfai_problem_t *p, int64_t piece) {
    int i = 0;
    checked_part_t part = part_of(p, 0);
    while (piece >= pieces_of(&part)) {
        piece -= pieces_of(&part);
        part = part_of(p, ++i);
    }
    const int64_t bh = piece / part.blocks;
    return check_block(&part, p, bh / part.heads, bh % part.heads, piece % part.blocks);
}

mfa_status_t mfai_quantization_check(const mfai_problem_t *p) {
    int64_t numbers;
    const int64_t pieces = mfai_quantization_pieces(p, &numbers);
    for (int64_t i = 0; i < pieces; ++i)
        MFAI_TRY(mfai_quantization_check_piece(p, i));
    return MFA_SUCCESS;
}

static mfa_status_t check_all(const checked_t *checked) {
    const mfai_view_t *view = checked->view;
    for (int64_t b = 0; view->present && b < view->shape[0]; ++b)
        for (int64_t h = 0; h < distinct(view, 1, view->shape[1]); ++h)
            MFAI_TRY(check_lines(checked, b, h, 0, view->shape[2]));
    return MFA_SUCCESS;
}

static mfa_status_t check_mean(const mfai_view_t *mean) {
    for (int64_t b = 0; mean->present && b < mean->shape[0]; ++b)
        for (int64_t h = 0; h < mean->shape[1]; ++h)
            for (int64_t d = 0; d < mean->shape[3]; ++d) {
                const int64_t at = b * mean->stride[0] + h * mean->stride[1] + d * mean->stride[3];
                const float found = ((const float *)(const void *)mean->data)[at];
                MFAI_REQUIRE(isfinite(found),
                             "quantization.mean[%" PRId64 ", %" PRId64 ", 0, %" PRId64
                             "] is %g, expected a finite number",
                             b, h, d, found);
            }
    return MFA_SUCCESS;
}

mfa_status_t mfai_quantization_check_static(const mfai_quantization_t *quantization, int32_t codes) {
    const checked_t scales = {.name = "quantization.scales", .view = &quantization->scales};
    MFAI_TRY(check_all(&scales));
    const checked_t zero_points = {.name = "quantization.zero_points",
                                   .view = &quantization->zero_points,
                                   .lowest = mfai_format_lowest(codes),
                                   .highest = mfai_format_highest(codes)};
    MFAI_TRY(check_all(&zero_points));
    return check_mean(&quantization->mean);
}
