/* What happens to rows of scores between the two products. */

/* The rows of a walk are numbered by position and then by head, so that a span of them shares most of its keys. */
INLINE int64_t row_head(const mfai_walk_t *walk, int64_t row) {
    return walk->heads.begin + row % (walk->heads.end - walk->heads.begin);
}
INLINE int64_t row_position(const mfai_walk_t *walk, int64_t row) {
    return row / (walk->heads.end - walk->heads.begin);
}
INLINE mfa_span row_positions(const mfai_walk_t *walk, mfa_span rows) {
    return mfa_span_tiles(rows, walk->heads.end - walk->heads.begin);
}

/* The keys that rows of a tile see, counted from the tile's first. */
typedef struct {
    mfa_span *row; /* of each; empty ones are 0 .. 0 */
    mfa_span any;  /* of some, and what lies between */
} seen_t;

/* Both, and what lies between. */
INLINE mfa_span join_spans(mfa_span a, mfa_span b) {
    if (mfa_span_is_empty(a))
        return b;
    if (mfa_span_is_empty(b))
        return a;
    return mfa_span_of(a.begin < b.begin ? a.begin : b.begin, a.end > b.end ? a.end : b.end);
}

/* As bounds have it, of `keys`, counted from first_key on; `row` has room for the rows. */
static seen_t find_seen(const mfai_walk_t *walk, mfa_span rows, mfa_span keys, int64_t first_key, mfa_span *row) {
    seen_t seen = {.row = row, .any = mfa_span_of(0, 0)};
    if (mfa_span_holds(mfa_rule_keys_all_see(walk->extent, row_positions(walk, rows)), keys)) {
        seen.any = mfa_span_of(keys.begin - first_key, keys.end - first_key);
        for (int64_t i = 0; i < rows.end - rows.begin; ++i)
            row[i] = seen.any;
        return seen;
    }
    for (int64_t i = rows.begin; i < rows.end; ++i, ++row) {
        const mfa_span some = mfa_span_cut(mfa_rule_keys_of_row(walk->extent, row_position(walk, i)), keys);
        *row = mfa_span_is_empty(some) ? mfa_span_of(0, 0) : mfa_span_of(some.begin - first_key, some.end - first_key);
        seen.any = join_spans(seen.any, *row);
    }
    return seen;
}

/* Whether nothing hides or changes a score of the rows that bounds let them see, as one line of blocks tells. */
static bool are_plain_rows(const mfai_walk_t *walk, mfa_span rows, mfa_span keys) {
    const mfai_problem_t *p = walk->problem;
    if (p->features & MFAI_BIASES || !(p->features & MFAI_BLOCKS))
        return false;
    const mfa_span lines = mfa_span_tiles(row_positions(walk, rows), p->block_rows);
    if (lines.end - lines.begin != 1 || (walk->heads.end - walk->heads.begin > 1 && p->blocks.stride[1] != 0))
        return false;
    const mfai_block_line_t line = mfai_block_line(p, walk->batch, walk->heads.begin, lines.begin);
    return mfai_blocks_are_full(&line, mfa_span_tiles(keys, p->block_keys));
}

/* Fills the biases of the rows, for the keys from first_key on, and narrows what they see. `found` gets BIAS_ANY_...
   bits of each; where these have no BIAS_ANY_NONZERO, its biases may be left out. Returns the bits of all. */
static unsigned fill_bias(const mfai_walk_t *walk, mfa_span rows, int64_t first_key, seen_t *seen, sums_t bias,
                          uint8_t *found) {
    unsigned all = 0;
    if (are_plain_rows(walk, rows, mfa_span_of(first_key + seen->any.begin, first_key + seen->any.end))) {
        memset(found, BIAS_ANY_VISIBLE, (size_t)(rows.end - rows.begin));
        return BIAS_ANY_VISIBLE;
    }
    seen->any = mfa_span_of(0, 0);
    for (int64_t r = 0; r < rows.end - rows.begin; ++r) {
        mfa_span keys = seen->row[r];
        found[r] = 0;
        if (mfa_span_is_empty(keys))
            continue;
        const int64_t head = row_head(walk, rows.begin + r), row = row_position(walk, rows.begin + r);
        const mfa_span there = mfa_span_of(first_key + keys.begin, first_key + keys.end);
        float *row_bias = bias.first + r * bias.stride;
        found[r] = BIAS_ANY_VISIBLE;
        if (!is_plain_row(walk, head, row, there)) {
            found[r] = (uint8_t)fill_bias_row(walk, head, row, there, row_bias + keys.begin);
            if (!(found[r] & BIAS_ANY_VISIBLE))
                keys = mfa_span_of(0, 0);
            /* Padding is hidden keys at either end: not visiting it saves time, and whatever it holds stays unread. */
            while (keys.begin < keys.end && row_bias[keys.begin] == -INFINITY)
                ++keys.begin;
            while (keys.begin < keys.end && row_bias[keys.end - 1] == -INFINITY)
                --keys.end;
        }
        all |= found[r];
        seen->row[r] = keys;
        seen->any = join_spans(seen->any, keys);
    }
    return all;
}

INLINE vf vf_tanh(vf x) {
    const vf magnitude = vf_abs(x), square = vf_mul(x, x);
    vf small = vf_fma(vf_set1(TANH_C4), square, vf_set1(TANH_C3));
    small = vf_fma(small, square, vf_set1(TANH_C2));
    small = vf_fma(small, square, vf_set1(TANH_C1));
    small = vf_fma(small, square, vf_set1(TANH_C0));
    small = vf_fma(vf_mul(small, square), x, x);
    /* 1 - 2 / (e^(2|x|) + 1); at 10 it is 1 in float32, and beyond nothing may overflow. */
    const vf bounded = vf_select_less(vf_set1(10), magnitude, vf_set1(10), magnitude);
    const vf power = vf_exp2(vf_mul(bounded, vf_set1(2 * MFA_LOG2_E)));
    const vf large = vf_sub(vf_set1(1), vf_div(vf_set1(2), vf_add(power, vf_set1(1))));
    return vf_select_less(magnitude, vf_set1(0.625f), small, vf_copysign(large, x));
}

/* Raw products to finished scores. `bias` is a constant NULL or never NULL, so that compilers make the same fused
   products of it wherever it is inlined. */
INLINE void finish_scores(const mfai_problem_t *p, float factor, float *scores, const float *bias, mfa_span seen) {
    const vf scale = vf_set1(factor), cap = vf_set1(p->softcap);
    const vf hidden = vf_set1(-INFINITY);
    for (int64_t j = seen.begin / VL * VL; j < seen.end; j += VL) {
        vf x = vf_mul(vf_load(scores + j), scale);
        if (p->softcap > 0)
            x = vf_mul(vf_tanh(vf_div(x, cap)), cap);
        if (bias) {
            const vf added = vf_load(bias + j);
            x = vf_select_equal(added, hidden, hidden, vf_add(x, added));
        }
        vf_store(scores + j, x);
    }
}

/* Hides the scores whose bias does; in the lanes beside them there may be anything. */
static void hide_scores(float *scores, const float *bias, mfa_span seen) {
    const vf hidden = vf_set1(-INFINITY);
    for (int64_t j = seen.begin / VL * VL; j < seen.end; j += VL)
        vf_store(scores + j, vf_select_equal(vf_load(bias + j), hidden, hidden, vf_load(scores + j)));
}

/* Hides what lies outside begin .. end in the edge vectors and returns the largest score, -inf if there is none. */
static float row_max(float *scores, int64_t begin, int64_t end) {
    const int64_t first = begin / VL * VL, last = (end - 1) / VL * VL;
    if (begin > first || end < last + VL) {
        vf_store(scores + first, vf_hide_outside(vf_load(scores + first), begin - first, end - first));
        if (last > first)
            vf_store(scores + last, vf_hide_outside(vf_load(scores + last), 0, end - last));
    }
    vf most = vf_load(scores + first), other = most;
    int64_t j = first + VL;
    for (; j < last; j += 2 * VL) {
        most = vf_max(most, vf_load(scores + j));
        other = vf_max(other, vf_load(scores + j + VL));
    }
    if (j == last)
        most = vf_max(most, vf_load(scores + j));
    return vf_hmax(vf_max(most, other));
}

/* Products of queries and keys become scores as job->max_to_log2 expects them. */
static void scale_row(const mfai_cpu_forward_job_t *job, float *row, int64_t begin, int64_t end) {
    const vf factor = vf_set1(job->score_factor);
    for (int64_t j = begin / VL * VL; j < end; j += VL)
        vf_store(row + j, vf_mul(vf_load(row + j), factor));
}

/* Replaces scores by weights, zero from `from` to `begin` and from `end` to `to`; returns their sum, which ignores
   dropout: `drop_factors`, unless NULL, has its factors. `reference` is the row's maximum. */
INLINE float row_weights(const mfai_cpu_forward_job_t *job, const bool score_pass, float *row, int64_t begin,
                         int64_t end, int64_t from, int64_t to, float reference, const float *drop_factors) {
    const vf factor = vf_set1(score_pass ? job->max_to_log2 : job->score_factor);
    const vf largest = vf_set1(score_pass ? reference : -reference);
    const int64_t first = begin < end ? begin / VL * VL : from, last = begin < end ? (end - 1) / VL * VL + VL : from;
    vf sum = vf_zero();
    for (int64_t j = from; j < first; j += VL)
        STORE_WEIGHTS(row, j, vf_zero());
    for (int64_t j = first; j < last; j += VL) {
        const vf score = vf_load(row + j);
        const vf weight = vf_exp2(score_pass ? vf_mul(vf_sub(score, largest), factor) : vf_fma(score, factor, largest));
        sum = vf_add(sum, weight);
        STORE_WEIGHTS(row, j, drop_factors ? vf_mul(weight, vf_load(drop_factors + j)) : weight);
    }
    for (int64_t j = last; j < to; j += VL)
        STORE_WEIGHTS(row, j, vf_zero());
    return vf_hsum(sum);
}
