/* What happens to rows of scores between the two products. */
/* The keys that each row of a sub-block sees, counted from the start of the key block; empty if end <= begin. */
typedef struct {
    int64_t begin[SUB_ROWS], end[SUB_ROWS];
    int64_t first, last; /* over all rows */
} ranges_t;

static void find_ranges(const mfai_problem_t *p, int64_t first_row, int rows, int64_t first_key, int64_t keys,
                        ranges_t *seen) {
    seen->first = keys;
    seen->last = 0;
    for (int r = 0; r < rows; ++r) {
        const int64_t row = (first_row + r) / p->group;
        int64_t begin = mfa_rule_key_begin(row, p->offset, p->window_left, p->key_count) - first_key;
        int64_t end = mfa_rule_key_end(row, p->offset, p->window_right, p->key_count) - first_key;
        begin = begin > 0 ? begin : 0;
        end = end < keys ? end : keys;
        if (end <= begin)
            begin = end = 0;
        else {
            seen->first = begin < seen->first ? begin : seen->first;
            seen->last = end > seen->last ? end : seen->last;
        }
        seen->begin[r] = begin;
        seen->end[r] = end;
    }
}

/* Fills the biases of a sub-block and narrows ranges of rows that see nothing. Returns BIAS_ANY_... bits of all rows. */
static unsigned fill_bias(const mfai_problem_t *p, int64_t b, int64_t kv_head, int64_t first_row, int rows,
                          int64_t first_key, int64_t stride, ranges_t *seen, float *bias) {
    unsigned all = 0;
    seen->first = stride;
    seen->last = 0;
    for (int r = 0; r < rows; ++r) {
        if (seen->end[r] <= seen->begin[r])
            continue;
        const int64_t at = first_row + r;
        int64_t begin = seen->begin[r], end = seen->end[r];
        unsigned found = fill_bias_row(p, b, kv_head * p->group + at % p->group, at / p->group, first_key + begin,
                                       end - begin, bias + r * stride + begin);
        all |= found;
        if (!(found & BIAS_ANY_VISIBLE)) {
            seen->begin[r] = seen->end[r] = 0;
            continue;
        }
        /* Padding is hidden keys at either end: not visiting it saves time, and whatever it holds stays unread. */
        const float *row_bias = bias + r * stride;
        while (row_bias[begin] == -INFINITY)
            ++begin;
        while (row_bias[end - 1] == -INFINITY)
            --end;
        seen->begin[r] = begin;
        seen->end[r] = end;
        seen->first = begin < seen->first ? begin : seen->first;
        seen->last = end > seen->last ? end : seen->last;
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
    const vf power = vf_exp2(vf_mul(bounded, vf_set1(2 * LOG2_E)));
    const vf large = vf_sub(vf_set1(1), vf_div(vf_set1(2), vf_add(power, vf_set1(1))));
    return vf_select_less(magnitude, vf_set1(0.625f), small, vf_copysign(large, x));
}

/* Raw products to finished scores. */
static void finish_scores(const mfai_problem_t *p, float *scores, const float *bias, int64_t begin, int64_t end) {
    const vf scale = vf_set1(p->softmax_scale), cap = vf_set1(p->softcap);
    const vf hidden = vf_set1(-INFINITY);
    for (int64_t j = begin / VL * VL; j < end; j += VL) {
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
static void scale_row(const mfai_forward_job_t *job, float *row, int64_t begin, int64_t end) {
    const vf factor = vf_set1(job->score_factor);
    for (int64_t j = begin / VL * VL; j < end; j += VL)
        vf_store(row + j, vf_mul(vf_load(row + j), factor));
}

/* Replaces scores by weights, zero from `from` to `begin` and from `end` to `to`; returns their sum, which ignores dropout:
   `keep`, unless NULL, has its factors. `reference` is the row's maximum. */
INLINE float row_weights(const mfai_forward_job_t *job, const bool score_pass, float *row, int64_t begin, int64_t end,
                         int64_t from, int64_t to, float reference, const float *keep) {
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
        STORE_WEIGHTS(row, j, keep ? vf_mul(weight, vf_load(keep + j)) : weight);
    }
    for (int64_t j = last; j < to; j += VL)
        STORE_WEIGHTS(row, j, vf_zero());
    return vf_hsum(sum);
}
