/* The factors that dropout puts on the weights of one row: what mfa_rule_dropout_bits says, many columns at once. */
enum { DROPOUT_SLICES = MFA_DROPOUT_COLUMNS / MFA_DROPOUT_LANES };

/* mfa_rule_philox on VL counters. */
INLINE void philox(vw x[4], mfa_philox_key key) {
    for (int round = 0; round < MFA_PHILOX_ROUNDS; ++round) {
        vw first_high, second_high;
        const vw first = vw_multiply(x[0], MFA_PHILOX_FIRST, &first_high);
        const vw second = vw_multiply(x[2], MFA_PHILOX_SECOND, &second_high);
        x[0] = vw_xor(vw_xor(second_high, x[1]), vw_set1(key.word[0]));
        x[1] = second;
        x[2] = vw_xor(vw_xor(first_high, x[3]), vw_set1(key.word[1]));
        x[3] = first;
        key = mfa_rule_philox_next_key(key);
    }
}

/* Of the columns first .. first + MFA_DROPOUT_COLUMNS - 1, where `first` is a multiple of that. */
INLINE void fill_drop_factor_columns(const mfai_cpu_dropout_t *dropout, int64_t b, int64_t head, int64_t row,
                                     int64_t first, float *drop_factors) {
    const mfa_philox counter = mfa_rule_dropout_counter(b, head, row, first);
    for (int lane = 0; lane < MFA_DROPOUT_LANES; lane += VL) {
        uint32_t calls[VL];
        for (int i = 0; i < VL; ++i)
            calls[i] = counter.word[0] + (uint32_t)(lane + i);
        vw x[4] = {vw_load(calls), vw_set1(counter.word[1]), vw_set1(counter.word[2]), vw_set1(counter.word[3])};
        philox(x, dropout->key);
#pragma GCC unroll 8
        for (int slice = 0; slice < DROPOUT_SLICES; ++slice)
            vf_store(drop_factors + slice * MFA_DROPOUT_LANES + lane,
                     vf_drop(x[slice / 2], slice % 2 == 0, dropout->threshold, dropout->factor));
    }
}

static void fill_drop_factors(const mfai_cpu_dropout_t *dropout, int64_t b, int64_t head, int64_t row, int64_t key,
                              int64_t count, float *drop_factors) {
    enum { COLUMNS = MFA_DROPOUT_COLUMNS };
    for (int64_t first = key / COLUMNS * COLUMNS; first < key + count; first += COLUMNS) {
        const int64_t at = first - key, begin = at < 0 ? -at : 0, end = count - at < COLUMNS ? count - at : COLUMNS;
        if (begin == 0 && end == COLUMNS) {
            fill_drop_factor_columns(dropout, b, head, row, first, drop_factors + at);
            continue;
        }
        float some[COLUMNS];
        fill_drop_factor_columns(dropout, b, head, row, first, some);
        memcpy(drop_factors + at + begin, some + begin, (size_t)(end - begin) * sizeof *drop_factors);
    }
}
