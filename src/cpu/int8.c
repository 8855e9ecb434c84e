#include "cpu/int8.h"

#include "attn/rows.h"
#include "cpu/sizes.h"

static bool is_paged(const mfai_view_t *view) { return view->layout != NULL && view->layout->pages != NULL; }

/* Terms have stride 0 where they repeat. */
static bool varies_by_row(const mfai_view_t *terms) {
    return terms->present && (terms->stride[2] != 0 || (is_paged(terms) && terms->stride[0] != 0));
}

static mfai_cpu_int8_side_t find_side(const mfai_view_t *codes, const mfai_quantization_t *quantization,
                                      int32_t offset) {
    const mfai_view_t *scales = &quantization->scales, *zeros = &quantization->zero_points;
    mfai_cpu_int8_side_t side = {.groups = 1,
                                 .group_columns = codes->shape[3],
                                 .row_scales = varies_by_row(scales),
                                 .row_zeros = varies_by_row(zeros),
                                 .has_zeros = zeros->present || offset != 0};
    if ((side.row_scales && scales->stride[3] != 0) || (side.row_zeros && zeros->stride[3] != 0)) {
        side.remade = quantization->columns == 1;
        side.group_columns = quantization->columns;
    }
    if (side.remade)
        side = (mfai_cpu_int8_side_t){.groups = 1, .group_columns = codes->shape[3], .remade = true};
    if (side.group_columns > MFAI_CPU_INT8_COLUMNS)
        side.group_columns = MFAI_CPU_INT8_COLUMNS;
    side.groups = mfai_ceil_div(codes->shape[3], side.group_columns);
    return side;
}

static mfai_cpu_int8_side_t find_key_side(const mfai_problem_t *p) {
    return find_side(&p->key, &p->key_quantization, mfai_cpu_int8_key_offset(p->key.format));
}

static mfai_cpu_int8_side_t find_value_side(const mfai_problem_t *p) {
    return find_side(&p->value, &p->value_quantization, mfai_cpu_int8_value_offset(p->value.format));
}

/* Parts of vectors would cost more than packing does. */
static bool has_whole_groups(const mfai_cpu_int8_side_t *side, int64_t codes) {
    return side->groups == 1 || side->group_columns % codes == 0 || 2 * side->group_columns == codes;
}

int64_t mfai_cpu_int8_most_keys(const mfai_problem_t *p, int64_t most) {
    return find_key_side(p).remade || find_value_side(p).remade ? MFAI_CPU_INT8_KEYS : most;
}

mfai_cpu_int8_t mfai_cpu_int8_plan(const mfai_problem_t *p, int64_t chunk_rows, int64_t block_keys, int64_t value_width,
                                   int64_t tile_rows, int64_t lanes, int64_t *size) {
    mfai_cpu_int8_t at = {.key = find_key_side(p), .value = find_value_side(p)};
    const int64_t columns = mfai_round_up(mfai_max(p->head_dim, p->value_dim), 64), rows = chunk_rows * at.key.groups;
    const bool remade = at.key.remade || at.value.remade;
    at.in_place = !remade && has_whole_groups(&at.key, 4 * lanes) && has_whole_groups(&at.value, 4 * lanes);
    at.query_scales = mfai_cpu_take(size, chunk_rows);
    at.query_means = mfai_cpu_take(size, chunk_rows);
    at.query_sums = mfai_cpu_take(size, rows);
    at.query_starts = mfai_cpu_take(size, rows);
    at.key_factors = mfai_cpu_take(size, columns);
    at.key_zeros = mfai_cpu_take(size, columns);
    at.mean = mfai_cpu_take(size, columns);
    at.row = mfai_cpu_take(size, columns);
    at.value_zeros = mfai_cpu_take(size, mfai_max(columns, value_width));
    at.value_factors = mfai_cpu_take(size, mfai_max(columns, value_width));
    /* Vectors of scales are stored whole: behind a group's is what is not written yet, behind the last there is room. */
    at.key_row_scales = mfai_cpu_take(size, block_keys * at.key.groups + MFAI_ROWS_PADDING);
    at.key_row_zeros = mfai_cpu_take(size, at.key.row_zeros ? block_keys * at.key.groups : 0);
    at.value_row_scales =
        mfai_cpu_take(size, at.value.row_scales ? block_keys * at.value.groups + MFAI_ROWS_PADDING : 0);
    at.value_row_zeros = mfai_cpu_take(size, at.value.has_zeros ? block_keys * at.value.groups / 4 : 0);
    at.weights = mfai_cpu_take(size, 2 * tile_rows * MFAI_CPU_INT8_KEYS / 4);
    at.bytes = mfai_cpu_take(size, (remade ? block_keys : 4) * columns / 4);
    at.reals = mfai_cpu_take(size, remade ? block_keys * columns : 0);
    return at;
}
