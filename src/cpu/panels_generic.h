/* Queries, keys and values in the form that the register tiles multiply. */
/* A row of `count` elements as words, padded with zeros to whole vectors. */
static void load_words(const void *source, const mfai_view_t *view, int64_t count, word *row) {
#if WORD_DEPTH == 1
    load_row_f32(source, view->precision, view->stride[3], count, (float *)row);
#else
    int64_t padded = (count + 2 * VL - 1) / (2 * VL) * (2 * VL);
    if (view->stride[3] == 1)
        memcpy(row, source, (size_t)count * sizeof(uint16_t));
    else
        gather_halves(source, view->stride[3], count, (uint16_t *)row);
    memset((uint16_t *)row + count, 0, (size_t)(padded - count) * sizeof(uint16_t));
#endif
}

static void pack_queries(const mfai_forward_job_t *job, int64_t b, int64_t kv_head, int64_t first, int64_t rows,
                         word *packed) {
    const mfai_problem_t *p = job->problem;
    const int64_t words = job->shape.query_words;
    for (int64_t r = 0; r < rows; ++r) {
        const int64_t at = first + r, head = kv_head * p->group + at % p->group;
        word *row = packed + r * words;
        load_words(view_row(&p->query, b, head, at / p->group), &p->query, p->head_dim, row);
        if (job->negate_query) {
            const uint32_t signs = WORD_DEPTH == 1 ? 0x80000000u : 0x80008000u;
            for (int64_t i = 0; i < words; ++i)
                row[i] = mfai_bits_to_f32(mfai_f32_to_bits(row[i]) ^ signs);
        }
    }
}

/* Columns in panel `index` of `columns` in all: a last panel of up to VL columns is one vector wide. */
INLINE bool panel_is_full(int64_t index, int64_t columns) { return columns - index * PANEL > VL || PANEL_VECS == 1; }

/* Keys as columns: panel after panel, each query_words deep. */
static void pack_keys(const mfai_forward_job_t *job, int64_t b, int64_t kv_head, int64_t first, int64_t count,
                      word *staging, word *packed) {
    const mfai_view_t *key = &job->problem->key;
    const int64_t words = job->shape.query_words;
    for (int64_t j = 0; j < count; j += VL) {
        const int64_t panel = j / PANEL;
        const int width = panel_is_full(panel, count) ? PANEL : VL;
        word *columns = packed + panel * PANEL * words + j % PANEL;
        for (int64_t i = 0; i < VL; ++i) {
            if (j + i < count)
                load_words(view_row(key, b, kv_head, first + j + i), key, job->problem->head_dim, staging + i * words);
            else
                memset(staging + i * words, 0, (size_t)words * sizeof *staging);
        }
        const int64_t used = (job->problem->head_dim + WORD_DEPTH - 1) / WORD_DEPTH;
        for (int64_t k = 0; k < used; k += VL) {
            vf rows[VL];
#pragma GCC unroll 16
            for (int i = 0; i < VL; ++i)
                rows[i] = vf_load(staging + i * words + k);
            vf_transpose(rows);
            for (int i = 0; i < VL && k + i < used; ++i)
                vf_store(columns + (k + i) * width, rows[i]);
        }
        /* The second half of a full panel may have no key at all. */
        if (width == PANEL && j % PANEL + VL < PANEL && j + VL >= count)
            for (int64_t k = 0; k < used; ++k)
                for (int64_t at = j % PANEL + VL; at < PANEL; at += VL)
                    vf_store(packed + panel * PANEL * words + k * PANEL + at, vf_zero());
    }
}

/* Values: panels of columns, each as deep as the block has words of keys. */
static void pack_values(const mfai_forward_job_t *job, int64_t b, int64_t kv_head, int64_t first, int64_t count,
                        word *staging, word *packed) {
    const mfai_view_t *value = &job->problem->value;
    const int64_t columns = job->problem->value_dim, depth = (count + WORD_DEPTH - 1) / WORD_DEPTH;
    for (int64_t k = 0; k < depth; ++k) {
#if WORD_DEPTH == 1
        const void *row = view_row(value, b, kv_head, first + k);
        if (value->stride[3] != 1 && columns > 1) {
            load_row_f32(row, value->precision, value->stride[3], columns, (float *)staging);
            row = staging;
        }
        const int32_t precision = row == staging ? MFA_PRECISION_FP32 : value->precision;
#else
        const int64_t line = (columns + 2 * VL - 1) / (2 * VL) * (2 * VL);
        const uint16_t *pair[2];
        for (int i = 0; i < 2; ++i) {
            uint16_t *staged = (uint16_t *)staging + i * line;
            const int64_t at = 2 * k + i;
            pair[i] = at < count ? (const uint16_t *)view_row(value, b, kv_head, first + at) : staged;
            if (at >= count)
                memset(staged, 0, (size_t)columns * sizeof *staged);
            else if (value->stride[3] != 1 && columns > 1) {
                gather_halves(pair[i], value->stride[3], columns, staged);
                pair[i] = staged;
            }
        }
#endif
        for (int64_t c = 0; c < columns; c += VL) {
            const int64_t panel = c / PANEL;
            const int width = panel_is_full(panel, columns) ? PANEL : VL;
            const int n = (int)(columns - c < VL ? columns - c : VL);
            word *target = packed + panel * PANEL * depth + k * width + c % PANEL;
#if WORD_DEPTH == 1
            vf_store(target, load_converted(row, precision, c, n));
#else
            vf_store(target, vf_pair_halves(pair[0] + c, pair[1] + c, n));
#endif
            if (width == PANEL && c % PANEL + VL < PANEL && c + VL >= columns)
                for (int64_t at = VL; c % PANEL + at < PANEL; at += VL)
                    vf_store(target + at, vf_zero());
        }
    }
}
