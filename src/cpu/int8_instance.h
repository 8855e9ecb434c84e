/*
 * An instance of the forward pass in integers. The including file has opened its target region, included
 * generic_begin.h, a SIMD vocabulary and that of codes (int8_scalar.h), and defined KERNEL, KERNEL_NAME and ROW_TILE as
 * for instance.h. The headers below are parts of it, each built on those above.
 */
#define WORD_DEPTH 4
#define STORE_WEIGHTS(row, i, x) vf_store((row) + (i), x) /* rounded later, with the largest of a tile as scale */
#include "cpu/bias_generic.h"
#include "cpu/dropout_generic.h"
#include "cpu/pack_generic.h"
#include "cpu/code_scales_generic.h"
#include "cpu/dequantise_generic.h"
#include "cpu/tiles_generic.h"
#include "cpu/rows_generic.h"
#include "cpu/int8_terms_generic.h"
#include "cpu/int8_panels_generic.h"
#include "cpu/int8_multiply_generic.h"
#include "cpu/int8_direct_generic.h"
#include "cpu/forward_generic.h"
#include "cpu/int8_products_generic.h"

extern const mfai_cpu_kernels_t KERNEL;
const mfai_cpu_kernels_t KERNEL = {
    .name = KERNEL_NAME,
    .tile = {.lanes = VL, .panel = PANEL, .sub_rows = SUB_ROWS, .word_depth = WORD_DEPTH},
    .forward = forward_task,
    .combine = forward_combine,
};
