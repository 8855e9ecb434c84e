/* What codes stand for: what the scales, zero points and means of a key or value ask of each other. */
#ifndef MFA_CORE_QUANTIZATION_H
#define MFA_CORE_QUANTIZATION_H

#include "core/integers.h"
#include "core/problem.h"

/* Takes what is said beside the operands. */
mfa_status_t mfai_quantization_set(const char *name, const mfa_quantization_t *given,
                                   mfai_quantization_t *quantization);

/* Keys and values have the precision of queries, or codes and what these stand for. */
mfa_status_t mfai_quantization_check_formats(const mfai_problem_t *problem);

/* Checks the scales and zero points that the CPU can read, of rows that sequences have, as a backend does before it
   writes anything: all of them, or one of several pieces. A call's plan reads none. */
mfa_status_t mfai_quantization_check(const mfai_problem_t *problem);
mfa_status_t mfai_quantization_check_piece(const mfai_problem_t *problem, int64_t piece);

/* How many pieces there are, and at most how many numbers in all. */
int64_t mfai_quantization_pieces(const mfai_problem_t *problem, int64_t *numbers);

/* Checks all scales, zero points and means that codes of a format are to be made with. */
mfa_status_t mfai_quantization_check_static(const mfai_quantization_t *quantization, int32_t codes);

/* So many scales stand for `count` rows or columns of which `shared` share one; 0: all. */
static inline int64_t mfai_scale_count(int64_t count, int64_t shared) {
    return shared == 0 ? 1 : mfai_ceil_div(count, shared);
}

/* The line of scales that holds for a row of an operand, wherever it is stored. */
static inline int64_t mfai_scale_line(const mfai_quantization_t *quantization, int64_t stored_row) {
    return quantization->rows == 0 ? 0 : stored_row / quantization->rows;
}

/* The first scale, or zero point, of row `row` of sequence b. */
static inline const char *mfai_scale_find(const mfai_quantization_t *quantization, const mfai_view_t *view, int64_t b,
                                          int64_t h, int64_t row) {
    mfai_place_t at = {b, row};
    if (view->layout != NULL)
        at = mfai_layout_place(view->layout, b, row);
    return view->data + mfai_view_offset(view, at.batch * view->stride[0] + h * view->stride[1] +
                                                   mfai_scale_line(quantization, at.row) * view->stride[2]);
}

#endif
