/*
 * An instance of the kernels. The including file has opened its target region, included generic_begin.h and a SIMD
 * vocabulary, and defined
 *   KERNEL, KERNEL_NAME       the exported table and its name
 *   WORD_DEPTH                elements in a 32-bit word: 1 (float32) or 2 (bfloat16 pairs)
 *   WORD_FMA(a, b, c)         a . b + c, lane by lane over words
 *   STORE_WEIGHTS(row, i, x)  stores softmax weights i .. i + VL - 1 of a row as words
 *   FINITE_WORDS(x)           words x with zero in place of elements that are not finite
 *   PAIR_ROWS(even, odd)      words of two rows, where words are pairs: `even` in the low halves
 *   JOIN_ROWS(first, second)   words of the elements of one, then of the other
 *   ROW_TILE                  rows of a register tile; it is two vectors of columns wide
 * The headers below are parts of it, each built on those above: none stands alone, and none is included elsewhere.
 */
#include "cpu/bias_generic.h"
#include "cpu/dropout_generic.h"
#include "cpu/pack_generic.h"
#include "cpu/code_scales_generic.h"
#include "cpu/dequantise_generic.h"
#include "cpu/tiles_generic.h"
#include "cpu/multiply_generic.h"
#include "cpu/rows_generic.h"
#include "cpu/panels_generic.h"
#include "cpu/direct_generic.h"
#include "cpu/forward_generic.h"
#if WORD_DEPTH == 1
#include "cpu/quantise_generic.h"
#include "cpu/append_generic.h"
#endif
#include "cpu/gradient_generic.h"
#include "cpu/backward_generic.h"
#include "cpu/backward_bias_generic.h"

extern const mfai_cpu_kernels_t KERNEL;
const mfai_cpu_kernels_t KERNEL = {
    .name = KERNEL_NAME,
    .tile = {.lanes = VL, .panel = PANEL, .sub_rows = SUB_ROWS, .word_depth = WORD_DEPTH},
    .forward = forward_task,
    .combine = forward_combine,
#if WORD_DEPTH == 1
    .append = append_task,
    .quantise_sum = quantise_sum,
    .quantise_ranges = quantise_ranges,
    .quantise_encode = quantise_encode,
#endif
    .backward_prepare = backward_prepare,
    .backward = backward_task,
    .backward_finish = backward_finish,
    .backward_sinks = backward_sinks,
    .backward_bias = backward_bias,
};
