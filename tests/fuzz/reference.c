#include "reference.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define UNIT 0x1p-24  /* relative rounding of float32 */
#define TINY 0x1p-126 /* its least normal number; dot-product instructions may take less for zero */
#define ROUNDING (8 * UNIT)
#define HALF_STEP 0.51 /* of codes, with what a float32 adds */
#define BEYOND 1e36    /* sums of which float32 may overflow on the way are not compared */

/* n roundings add up to 6 sqrt(n) of them but for a chance of 3e-8 (Higham and Mary, 2019), and to n in any case. */
static double summation(int64_t n) { return fmin((double)n, 6 * sqrt((double)(n > 1 ? n : 1))) * UNIT; }

static double grown(double error) { return expm1(fmin(error, 80)); }

static double unit_of(int32_t precision) {
    return precision == MFA_PRECISION_FP32 ? UNIT : precision == MFA_PRECISION_FP16 ? 0x1p-11 : 0x1p-8;
}

static double largest_of(int32_t precision) {
    return precision == MFA_PRECISION_FP32 ? 0x1.fffffep127 : precision == MFA_PRECISION_FP16 ? 65504 : 0x1.fep127;
}

static double written(double x, int32_t precision) {
    const double step = precision == MFA_PRECISION_FP32   ? 0x1p-149
                        : precision == MFA_PRECISION_FP16 ? 0x1p-24
                                                          : 0x1p-133;
    return unit_of(precision) * fabs(x) + step;
}

/* What several steps need of the problem, and one row of it. */
typedef struct {
    const problem_t *p;
    const operand_t *of;
    int64_t batch, heads, group, rows, keys, dim, value_dim, offset; /* rows, keys, offset: of a sequence */
    const sequence_t *sequence;
    double scale, softcap, kept, weight_unit, lost;
    uint32_t key[2], threshold;
    bool is_comparable; /* nothing was not finite or too large: gradients can be compared */
    double *score, *error, *slope, *slope_error, *weight, *keep;
} walk_t;

static uint64_t philox_product(uint32_t a, uint32_t b) { return (uint64_t)a * b; }

/* Philox4x32-10, in place. */
static void philox(uint32_t x[4], uint32_t key0, uint32_t key1) {
    for (int round = 0; round < 10; ++round, key0 += 0x9e3779b9u, key1 += 0xbb67ae85u) {
        const uint64_t first = philox_product(0xd2511f53u, x[0]), second = philox_product(0xcd9e8d57u, x[2]);
        const uint32_t y[4] = {(uint32_t)(second >> 32) ^ x[1] ^ key0, (uint32_t)second,
                               (uint32_t)(first >> 32) ^ x[3] ^ key1, (uint32_t)first};
        memcpy(x, y, sizeof y);
    }
}

static bool is_kept(const walk_t *w, int64_t b, int64_t h, int64_t i, int64_t j) {
    uint32_t x[4] = {(uint32_t)(16 * (j / 128) + j % 16), (uint32_t)i, (uint32_t)h, (uint32_t)b};
    philox(x, w->key[0], w->key[1]);
    const int slice = (int)(j % 128 / 16);
    return (x[slice / 2] >> slice % 2 * 16 & 0xffff) >= w->threshold;
}

/* Moves to a sequence. */
static void enter(walk_t *w, int64_t b) {
    w->sequence = &w->p->sequence[b];
    w->rows = w->sequence->queries;
    w->keys = w->sequence->keys;
    w->offset = w->p->forward.alignment == MFA_ALIGN_BOTTOM_RIGHT ? w->keys - w->rows : 0;
}

typedef struct {
    int64_t b, row;
} place_t;

static place_t query_place(const walk_t *w, int64_t i) {
    return (place_t){w->sequence->query_batch, w->sequence->query_row + i};
}

static place_t key_place(const walk_t *w, int64_t j) {
    const int64_t row = w->sequence->key_row + j, page = w->of[KEY].tensor.shape[2];
    if (!w->of[PAGE_TABLE].present)
        return (place_t){w->sequence->key_batch, row};
    return (place_t){w->sequence->pages[row / page], row % page};
}

/* Element of an operand with rows like queries, or like keys. */
static double query_at(const walk_t *w, int operand, int64_t h, int64_t i, int64_t d) {
    const place_t at = query_place(w, i);
    return operand_at(&w->of[operand], at.b, h, at.row, d);
}

static double stored_at(const walk_t *w, int operand, int64_t h, int64_t j, int64_t d) {
    const place_t at = key_place(w, j);
    return operand_at(&w->of[operand], at.b, h / w->group, at.row, d);
}

/* Of an operand that says what codes stand for, the element for column d of key j. */
static double shared_at(const walk_t *w, int operand, const mfa_quantization_t *by, int64_t h, int64_t j, int64_t d) {
    const place_t at = key_place(w, j);
    return operand_at(&w->of[operand], at.b, h / w->group, by->rows > 0 ? at.row / by->rows : 0,
                      by->columns > 0 ? d / by->columns : 0);
}

/* What a key or value stands for, and of what size the terms of that are. */
typedef struct {
    double value, size, off; /* off: how far it may be from what is computed with */
    double scale, code;      /* code: without regard to signs, with the zero point */
} element_t;

static element_t element_of(const walk_t *w, int operand, int64_t h, int64_t j, int64_t d) {
    const double stored = stored_at(w, operand, h, j, d);
    if (!has_codes(&w->of[operand]))
        return (element_t){stored, fabs(stored), 0, 0, 0};
    const bool is_key = operand == KEY;
    const int scales = is_key ? KEY_SCALES : VALUE_SCALES;
    const mfa_quantization_t *by = is_key ? &w->p->key_quantization : &w->p->value_quantization;
    const double zero = w->of[scales + 1].present ? shared_at(w, scales + 1, by, h, j, d) : 0;
    const double mean = is_key && w->of[KEY_MEAN].present
                            ? operand_at(&w->of[KEY_MEAN], w->sequence - w->p->sequence, h / w->group, 0, d)
                            : 0;
    element_t e = {.scale = shared_at(w, scales, by, h, j, d), .code = fabs(stored) + fabs(zero)};
    e.value = e.scale * (stored - zero) + mean;
    e.size = e.scale * e.code + fabs(mean);
    e.off = 2 * fmax(UNIT, unit_of(w->of[QUERY].tensor.precision)) * e.size;
    return e;
}

static walk_t walk_begin(const problem_t *p) {
    const mfa_attention_desc_t *d = &p->forward;
    const int64_t *q = p->operands[QUERY].tensor.shape, *v = p->operands[VALUE].tensor.shape;
    const int32_t precision = p->operands[QUERY].tensor.precision;
    walk_t w = {.p = p, .of = p->operands, .is_comparable = true};
    w.batch = p->sequence_count, w.heads = q[1], w.group = q[1] / v[1], w.dim = q[3], w.value_dim = v[3];
    w.scale =
        d->softmax_scale == 0 && !(d->flags & MFA_ATTENTION_LITERAL_SCALE) ? 1 / sqrt((double)w.dim) : d->softmax_scale;
    w.softcap = d->softcap;
    w.kept = 1 / (1 - (double)d->dropout_p);
    w.threshold = (uint32_t)((double)d->dropout_p * 65536 + 0.5);
    uint32_t x[4] = {(uint32_t)d->dropout_offset, (uint32_t)(d->dropout_offset >> 32), 0, 0};
    philox(x, (uint32_t)d->dropout_seed, (uint32_t)(d->dropout_seed >> 32));
    memcpy(w.key, x, sizeof w.key);
    const bool exact = d->intermediate_precision == MFA_PRECISION_FP32 || precision == MFA_PRECISION_FP32;
    w.weight_unit = exact ? 0 : unit_of(precision);
    w.lost = exact || precision == MFA_PRECISION_BF16 ? TINY : 0x1p-25;
    double **const rows[] = {&w.score, &w.error, &w.slope, &w.slope_error, &w.weight, &w.keep};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; ++i)
        *rows[i] = calloc((size_t)(2 * v[2] + 1), sizeof **rows[i]);
    return w;
}

static void walk_end(walk_t *w) {
    free(w->score), free(w->error), free(w->slope), free(w->slope_error), free(w->weight), free(w->keep);
}

static bool is_visible(const walk_t *w, int64_t b, int64_t h, int64_t i, int64_t j) {
    const mfa_attention_desc_t *d = &w->p->forward;
    const int64_t distance = j - (i + w->offset);
    const bool causal = d->flags & MFA_ATTENTION_CAUSAL;
    const unsigned char *kinds = w->p->kinds;
    int kind = 1;
    if (kinds != NULL)
        kind = kinds[((b * w->heads + h) * w->p->lines + i / w->p->blocks.block_rows) * w->p->columns +
                     j / w->p->blocks.block_keys];
    if (d->chunk > 0 && (i + w->offset < 0 || j / d->chunk != (i + w->offset) / d->chunk))
        return false;
    return kind > 0 && !(causal && distance > 0) && !(d->window_left >= 0 && -distance > d->window_left) &&
           !(!causal && d->window_right >= 0 && distance > d->window_right) &&
           !(kind < 2 && w->of[BOOL_MASK].present && operand_at(&w->of[BOOL_MASK], b, h, i, j) == 0) &&
           !(w->of[ADDITIVE_MASK].present && operand_at(&w->of[ADDITIVE_MASK], b, h, i, j) == -INFINITY);
}

/* The score of a visible key, how far off it may be, and its derivative by q . k. */
static void score_key(walk_t *w, int64_t b, int64_t h, int64_t i, int64_t j) {
    double product = 0, terms = 0, sizes = 0, biases = 0, off = 0;
    double most_query = 0, most_scale = 0, codes = 0;
    for (int64_t d = 0; d < w->dim; ++d) {
        const double q = query_at(w, QUERY, h, i, d);
        const element_t k = element_of(w, KEY, h, j, d);
        product += q * k.value;
        terms += fabs(q) * k.size;
        sizes += fabs(q) + k.size;
        off += fabs(q) * k.off;
        most_query = fmax(most_query, fabs(q));
        most_scale = fmax(most_scale, k.scale);
        codes += k.code;
    }
    if (w->p->forward.compute_mode == MFA_COMPUTE_INT8)
        off += HALF_STEP / 127 * most_query * most_scale * codes;
    double score = w->scale * product;
    w->slope[j] = w->scale;
    w->error[j] = (summation(w->dim) + ROUNDING) * fabs(w->scale) * terms +
                  TINY * (1 + fabs(w->scale)) * ((double)w->dim + sizes) + fabs(w->scale) * off;
    w->slope_error[j] = 0;
    if (w->softcap > 0) {
        const double bent = tanh(score / w->softcap), moved = w->error[j] / w->softcap;
        score = w->softcap * bent;
        w->slope[j] *= 1 - bent * bent;
        w->slope_error[j] =
            ROUNDING * fabs(w->slope[j]) + 2 * fabs(w->slope[j]) * moved + fabs(w->scale) * (ROUNDING + moved * moved);
        w->error[j] += TINY * (1 + w->softcap);
    }
    if (w->of[ALIBI_SLOPES].present)
        biases -= operand_at(&w->of[ALIBI_SLOPES], b, h, 0, 0) * (double)llabs(i + w->offset - j);
    const double mask = w->of[ADDITIVE_MASK].present ? operand_at(&w->of[ADDITIVE_MASK], b, h, i, j) : 0;
    w->score[j] = score + biases + mask;
    w->error[j] += (summation(w->dim) + ROUNDING) * (fabs(biases) + fabs(mask));
    if (!(terms * fmax(1, fabs(w->scale)) + fabs(biases) + fabs(mask) < BEYOND))
        w->is_comparable = false;
}

typedef struct {
    double logsumexp, error, sum; /* error: of the scores, at the most; sum: of exp(score - the largest) */
    bool is_comparable, is_finite;
} row_t;

/* Scores and weights of a row. Weights of hidden keys are 0. */
static row_t weigh_row(walk_t *w, int64_t b, int64_t h, int64_t i) {
    const double sink = w->of[SINKS].present ? operand_at(&w->of[SINKS], b, h, 0, 0) : -INFINITY;
    row_t row = {.error = isfinite(sink) ? ROUNDING * fabs(sink) : 0, .is_comparable = true, .is_finite = true};
    const bool all = w->is_comparable;
    w->is_comparable = true;
    double most = sink;
    for (int64_t j = 0; j < w->keys; ++j) {
        w->score[j] = -INFINITY;
        w->keep[j] = w->threshold == 0 || is_kept(w, b, h, i, j) ? w->kept : 0;
        if (!is_visible(w, b, h, i, j))
            continue;
        score_key(w, b, h, i, j);
        if (isnan(w->score[j]) || w->score[j] == INFINITY)
            row.is_finite = false;
        else if (w->score[j] > -INFINITY) {
            row.error = fmax(row.error, w->error[j]);
            most = fmax(most, w->score[j]);
        }
    }
    row.is_comparable = w->is_comparable && sink < BEYOND;
    w->is_comparable &= all && row.is_comparable && row.is_finite;
    row.sum = most > -INFINITY ? exp(sink - most) : 0;
    for (int64_t j = 0; j < w->keys; ++j)
        row.sum += w->weight[j] = w->score[j] > -INFINITY ? exp(w->score[j] - most) : 0;
    for (int64_t j = 0; j < w->keys; ++j)
        w->weight[j] = w->weight[j] > 0 ? w->weight[j] / row.sum : 0;
    row.logsumexp = row.sum > 0 ? most + log(row.sum) : -INFINITY;
    return row;
}

/* Where an element is in a packed tensor of this operand's shape, in which a size of 1 serves every index. */
static int64_t packed(const operand_t *o, int64_t b, int64_t h, int64_t i, int64_t j) {
    const int64_t *n = o->tensor.shape;
    return (((n[0] > 1 ? b : 0) * n[1] + (n[1] > 1 ? h : 0)) * n[2] + (n[2] > 1 ? i : 0)) * n[3] + (n[3] > 1 ? j : 0);
}

static void forward_row(walk_t *w, reference_t *r, int64_t b, int64_t h, int64_t i) {
    const row_t row = weigh_row(w, b, h, i);
    const operand_t *out = &w->of[OUT];
    const place_t place = query_place(w, i);
    const double relative = grown(2 * row.error) + ROUNDING + 2 * summation(w->keys) + w->weight_unit;
    const double unknown = row.is_finite ? NAN : INFINITY;
    if (r->of[LOGSUMEXP].value != NULL) {
        const int64_t at = packed(&w->of[LOGSUMEXP], place.b, h, place.row, 0);
        r->of[LOGSUMEXP].value[at] = row.is_finite ? row.logsumexp : NAN;
        r->of[LOGSUMEXP].bound[at] = !row.is_comparable || !row.is_finite
                                         ? unknown
                                         : row.error + 2 * summation(w->keys) +
                                               ROUNDING * (1 + (isfinite(row.logsumexp) ? fabs(row.logsumexp) : 0));
    }
    for (int64_t d = 0; d < w->value_dim; ++d) {
        double sum = 0, magnitude = 0, largest = 0, off = 0;
        double most_weight = 0, most_scale = 0, codes = 0;
        double infinity = 0; /* sum of what is not finite; NaN if any of it may be met by a weight of 0 */
        bool has_nonfinite = false, reaches = false;
        for (int64_t j = 0; j < w->keys; ++j) {
            const element_t element = element_of(w, VALUE, h, j, d);
            const double x = element.value;
            if (!isfinite(x)) {
                const bool is_met = w->weight[j] > 1e-6 && w->keep[j] > 0;
                has_nonfinite = true;
                reaches |= is_met;
                infinity += is_met ? x : NAN;
                continue;
            }
            largest = fmax(largest, element.size);
            sum += w->weight[j] * w->keep[j] * x;
            magnitude += w->weight[j] * w->keep[j] * element.size;
            off += w->weight[j] * w->keep[j] * element.off;
            most_weight = fmax(most_weight, w->weight[j] * w->keep[j]);
            most_scale = fmax(most_scale, element.scale);
            codes += element.code;
        }
        if (w->p->forward.compute_mode == MFA_COMPUTE_INT8)
            off += (1 + relative) * HALF_STEP / 255 * most_weight * most_scale * codes;
        const int64_t at = packed(out, place.b, h, place.row, d);
        r->of[OUT].value[at] = row.is_finite ? sum : NAN;
        r->of[OUT].bound[at] = relative * magnitude + off + written(sum, out->tensor.precision) +
                               (double)w->keys * (w->kept * w->lost * largest + TINY);
        if (!row.is_comparable || !(magnitude * row.sum < BEYOND) || !row.is_finite)
            r->of[OUT].bound[at] = unknown;
        else if (has_nonfinite) { /* reaches who sees it, and may spread to others of its tile */
            r->of[OUT].bound[at] = reaches ? INFINITY : NAN;
            r->of[OUT].value[at] = infinity;
        }
        if (!isfinite(r->of[OUT].bound[at]) || fabs(sum) > largest_of(out->tensor.precision))
            w->is_comparable = false;
    }
}

typedef struct {
    double value, magnitude, error;
} sum_t;

/* dropout(dout . v_j) */
static sum_t dweight(const walk_t *w, int64_t h, int64_t i, int64_t j) {
    sum_t s = {0, 0, 0};
    double sizes = 0, off = 0;
    for (int64_t d = 0; d < w->value_dim; ++d) {
        const double x = query_at(w, DOUT, h, i, d);
        const element_t v = element_of(w, VALUE, h, j, d);
        s.value += w->keep[j] * x * v.value;
        s.magnitude += w->keep[j] * fabs(x) * v.size;
        off += w->keep[j] * fabs(x) * v.off;
        sizes += fabs(x) + v.size;
    }
    s.error =
        off + (summation(w->value_dim) + ROUNDING) * s.magnitude + w->keep[j] * TINY * ((double)w->value_dim + sizes);
    return s;
}

/* dout . out - dlogsumexp, of an out that is as far off as it may be */
static sum_t delta(const walk_t *w, const reference_t *r, int64_t h, int64_t i) {
    const place_t place = query_place(w, i);
    sum_t s = {0, 0, TINY * (double)w->value_dim};
    for (int64_t d = 0; d < w->value_dim; ++d) {
        const int64_t at = packed(&w->of[OUT], place.b, h, place.row, d);
        const double x = query_at(w, DOUT, h, i, d), out = r->of[OUT].value[at];
        s.value += x * out;
        s.magnitude += fabs(x * out);
        s.error += fabs(x) * r->of[OUT].bound[at];
    }
    if (w->of[DLOGSUMEXP].present) {
        const double x = query_at(w, DLOGSUMEXP, h, i, 0);
        s.value -= x;
        s.magnitude += fabs(x);
    }
    s.error += (summation(w->value_dim) + ROUNDING) * s.magnitude;
    return s;
}

/* Adds a term and its error to an element of a gradient that sums `count` such terms. */
static void accumulate(const walk_t *w, reference_t *r, int gradient, const int64_t at[4], double term, double error,
                       int64_t count) {
    if (r->of[gradient].value == NULL)
        return;
    const int64_t where = packed(&w->of[gradient], at[0], at[1], at[2], at[3]);
    r->of[gradient].value[where] += term;
    r->of[gradient].bound[where] += error + (summation(count) + ROUNDING) * fabs(term);
}

/* Whether a code's gradient is 0 because it is at an end of the range. */
static bool is_clipped(const walk_t *w, int operand, int64_t h, int64_t j, int64_t d) {
    if (!has_codes(&w->of[operand]) || !(w->p->backward.flags & MFA_BACKWARD_ZERO_CLIPPED))
        return false;
    const int32_t precision = w->of[operand].tensor.precision;
    const double levels = precision == MFA_PRECISION_INT4 || precision == MFA_PRECISION_UINT4 ? 16 : 256;
    const bool is_signed = precision == MFA_PRECISION_INT4 || precision == MFA_PRECISION_INT8;
    const bool is_symmetric = !w->of[operand == KEY ? KEY_ZERO_POINTS : VALUE_ZERO_POINTS].present;
    const double lowest = is_signed ? -levels / 2 : 0, code = stored_at(w, operand, h, j, d);
    return code <= lowest + is_symmetric || code >= lowest + levels - 1;
}

static void backward_key(const walk_t *w, reference_t *r, const row_t *row, sum_t total, int64_t b, int64_t h,
                         int64_t i, int64_t j) {
    const int64_t kv = h / w->group, many = w->group * w->rows;
    const place_t query = query_place(w, i), key = key_place(w, j);
    const double weight = w->weight[j],
                 lse_error = row->error + 2 * summation(w->keys) + ROUNDING * (1 + fabs(row->logsumexp));
    const double relative = grown(w->error[j] + lse_error) + ROUNDING, seen = w->score[j] > -INFINITY;
    const double lost = seen * w->lost * fmax(1, fabs(w->scale)); /* whatever the order of the factors */
    const sum_t dp = dweight(w, h, i, j);
    const double largest = fabs(dp.value) + fabs(total.value), dscore = weight * (dp.value - total.value);
    const double error = relative * weight * largest +
                         (1 + relative) * weight * (dp.error + total.error + ROUNDING * largest) +
                         seen * TINY * (1 + largest);
    const double product = dscore * w->slope[j] * seen;
    const double product_error =
        error * fabs(w->slope[j]) + (fabs(dscore) + error) * w->slope_error[j] + lost + seen * TINY * largest;
    const double rounded = product_error + w->weight_unit * (fabs(product) + product_error);
    for (int64_t d = 0; d < w->dim; ++d) {
        const double q = query_at(w, QUERY, h, i, d);
        const element_t k = element_of(w, KEY, h, j, d);
        accumulate(w, r, DQUERY, (const int64_t[]){query.b, h, query.row, d}, product * k.value,
                   (rounded + ROUNDING * fabs(product)) * k.size + (fabs(product) + rounded) * k.off +
                       TINY * (2 + k.size),
                   w->keys);
        if (!is_clipped(w, KEY, h, j, d))
            accumulate(w, r, DKEY, (const int64_t[]){key.b, kv, key.row, d}, product * q,
                       rounded * fabs(q) + TINY * (2 + fabs(q)), many);
    }
    const double kept = weight * w->keep[j];
    const double kept_error = w->keep[j] * (relative * weight + lost) + w->weight_unit * kept;
    for (int64_t d = 0; d < w->value_dim; ++d) {
        const double x = query_at(w, DOUT, h, i, d);
        if (!is_clipped(w, VALUE, h, j, d))
            accumulate(w, r, DVALUE, (const int64_t[]){key.b, kv, key.row, d}, kept * x,
                       kept_error * fabs(x) + TINY * (2 + fabs(x)), many);
    }
    accumulate(w, r, DBIAS, (const int64_t[]){b, h, i, j}, dscore, error, w->batch * w->heads * w->rows * w->keys);
}

static void backward_row(walk_t *w, reference_t *r, int64_t b, int64_t h, int64_t i) {
    const row_t row = weigh_row(w, b, h, i);
    const sum_t total = delta(w, r, h, i);
    /* An error of 1 in a score is one of a factor e in its weight: logsumexp has lost too much. */
    if (!(total.magnitude + total.error < BEYOND) || (row.sum > 0 && row.error + UNIT * fabs(row.logsumexp) > 1))
        w->is_comparable = false;
    if (!(row.sum > 0))
        return;
    for (int64_t j = 0; j < w->keys; ++j)
        backward_key(w, r, &row, total, b, h, i, j);
    if (w->of[SINKS].present) {
        const double share = exp(operand_at(&w->of[SINKS], b, h, 0, 0) - row.logsumexp);
        const double relative =
            grown(row.error + 2 * summation(w->keys) + ROUNDING * (1 + fabs(row.logsumexp))) + ROUNDING;
        const double error = share * (relative * fabs(total.value) + (1 + relative) * total.error) + TINY;
        accumulate(w, r, DSINKS, (const int64_t[]){0, h, 0, 0}, -share * total.value, error, w->batch * w->rows);
    }
}

static bool is_finite(const operand_t *o) {
    if (!o->present)
        return true;
    for (int64_t b = 0; b < o->tensor.shape[0]; ++b)
        for (int64_t h = 0; h < o->tensor.shape[1]; ++h)
            for (int64_t i = 0; i < o->tensor.shape[2]; ++i)
                for (int64_t j = 0; j < o->tensor.shape[3]; ++j)
                    if (!(fabs(operand_at(o, b, h, i, j)) < BEYOND))
                        return false;
    return true;
}

static int64_t count_of(const operand_t *o) {
    return o->tensor.shape[0] * o->tensor.shape[1] * o->tensor.shape[2] * o->tensor.shape[3];
}

static void for_each_row(walk_t *w, reference_t *r, void (*visit)(walk_t *, reference_t *, int64_t, int64_t, int64_t)) {
    for (int64_t b = 0; b < w->batch; ++b) {
        enter(w, b);
        for (int64_t h = 0; h < w->heads; ++h)
            for (int64_t i = 0; i < w->rows; ++i)
                visit(w, r, b, h, i);
    }
}

void reference_make(const problem_t *p, reference_t *r) {
    *r = (reference_t){0};
    for (int i = 0; i < OPERANDS; ++i)
        if (p->operands[i].present && ((FORWARD_WRITES | BACKWARD_WRITES) >> i & 1)) {
            const size_t count = (size_t)count_of(&p->operands[i]) + 1;
            r->of[i] = (expected_t){calloc(count, sizeof(double)), calloc(count, sizeof(double))};
        }
    /* What belongs to no sequence. */
    for (int64_t at = 0; r->of[LOGSUMEXP].value != NULL && at < count_of(&p->operands[LOGSUMEXP]); ++at)
        r->of[LOGSUMEXP].value[at] = -INFINITY;
    walk_t w = walk_begin(p);
    for_each_row(&w, r, forward_row);
    if (p->has_backward) {
        w.is_comparable &= is_finite(&w.of[QUERY]) && is_finite(&w.of[KEY]) && is_finite(&w.of[KEY_MEAN]) &&
                           is_finite(&w.of[VALUE]) && is_finite(&w.of[DOUT]) && is_finite(&w.of[DLOGSUMEXP]);
        for_each_row(&w, r, backward_row);
    }
    for (int i = DQUERY; i < OPERANDS; ++i)
        for (int64_t at = 0; r->of[i].value != NULL && at < count_of(&p->operands[i]); ++at) {
            double *bound = &r->of[i].bound[at];
            *bound += written(r->of[i].value[at], p->operands[i].tensor.precision);
            if (!w.is_comparable || !(*bound < BEYOND))
                *bound = NAN;
        }
    walk_end(&w);
}

void reference_free(reference_t *r) {
    for (int i = 0; i < OPERANDS; ++i)
        free(r->of[i].value), free(r->of[i].bound);
}

static bool is_within(double got, double expected, double bound, double largest) {
    if (isnan(bound))
        return true;
    if (isinf(bound))
        return isinf(expected) ? got == expected : !isfinite(got);
    if (isinf(got) && got * expected > 0 && fabs(expected) + bound > largest)
        return true;
    return got == expected || fabs(got - expected) <= bound;
}

void reference_expect(const problem_t *p, const reference_t *r, uint64_t written_operands, const char *call) {
    for (int operand = 0; operand < OPERANDS; ++operand) {
        const operand_t *o = &p->operands[operand];
        if (!(written_operands >> operand & 1) || r->of[operand].value == NULL)
            continue;
        const int64_t *n = o->tensor.shape;
        for (int64_t b = 0; b < n[0]; ++b)
            for (int64_t h = 0; h < n[1]; ++h)
                for (int64_t i = 0; i < n[2]; ++i)
                    for (int64_t j = 0; j < n[3]; ++j) {
                        const int64_t at = packed(o, b, h, i, j);
                        const double got = operand_at(o, b, h, i, j), expected = r->of[operand].value[at];
                        if (is_within(got, expected, r->of[operand].bound[at], largest_of(o->tensor.precision)))
                            continue;
                        problem_print(p);
                        fail("%s: %s[%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64
                             "] is %.9g, expected %.9g +- %.3g",
                             call, operand_names[operand], b, h, i, j, got, expected, r->of[operand].bound[at]);
                    }
    }
}
