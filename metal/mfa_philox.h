/* Which weights dropout drops: value-only functions for every backend, as in mfa_rules.h. */
#ifndef MFA_PHILOX_H
#define MFA_PHILOX_H

#include "mfa_types.h"

/*
 * Dropout. One call of Philox4x32-10 (Salmon, Moraes, Dror and Shaw, 2011) decides about 8 columns of a row, 16 apart, so that
 * 16 lanes that each make a call have 8 vectors of adjacent columns:
 *
 *   key      the first two words of Philox of (offset low, offset high, 0, 0) with the key (seed low, seed high)
 *   counter  (16 * (column / 128) + column % 16, row, head, batch), each modulo 2^32
 *   bits     slice s = column % 128 / 16: word s / 2 of the result, its low half for even s, its high half for odd s
 *
 * A weight is dropped if its bits are below round(65536 * dropout_p).
 */
enum { MFA_DROPOUT_COLUMNS = 128, MFA_DROPOUT_LANES = 16, MFA_PHILOX_ROUNDS = 10 };
#define MFA_PHILOX_FIRST 0xd2511f53u
#define MFA_PHILOX_SECOND 0xcd9e8d57u

typedef struct {
    mfa_u32 word[4];
} mfa_philox;

typedef struct {
    mfa_u32 word[2];
} mfa_philox_key;

static inline mfa_philox_key mfa_rule_philox_next_key(mfa_philox_key key) {
    key.word[0] += 0x9e3779b9u;
    key.word[1] += 0xbb67ae85u;
    return key;
}

static inline mfa_philox mfa_rule_philox_round(mfa_philox x, mfa_philox_key key) {
    mfa_u64 first = (mfa_u64)MFA_PHILOX_FIRST * x.word[0], second = (mfa_u64)MFA_PHILOX_SECOND * x.word[2];
    mfa_philox y;
    y.word[0] = (mfa_u32)(second >> 32) ^ x.word[1] ^ key.word[0];
    y.word[1] = (mfa_u32)second;
    y.word[2] = (mfa_u32)(first >> 32) ^ x.word[3] ^ key.word[1];
    y.word[3] = (mfa_u32)first;
    return y;
}

static inline mfa_philox mfa_rule_philox(mfa_philox counter, mfa_philox_key key) {
    for (int i = 0; i < MFA_PHILOX_ROUNDS; ++i) {
        counter = mfa_rule_philox_round(counter, key);
        key = mfa_rule_philox_next_key(key);
    }
    return counter;
}

static inline mfa_philox_key mfa_rule_dropout_key(mfa_u64 seed, mfa_u64 offset) {
    mfa_philox counter = {{(mfa_u32)offset, (mfa_u32)(offset >> 32), 0, 0}};
    mfa_philox_key key = {{(mfa_u32)seed, (mfa_u32)(seed >> 32)}};
    counter = mfa_rule_philox(counter, key);
    key.word[0] = counter.word[0];
    key.word[1] = counter.word[1];
    return key;
}

static inline mfa_philox mfa_rule_dropout_counter(mfa_index batch, mfa_index head, mfa_index row, mfa_index column) {
    mfa_index call = MFA_DROPOUT_LANES * (column / MFA_DROPOUT_COLUMNS) + column % MFA_DROPOUT_LANES;
    mfa_philox counter = {{(mfa_u32)call, (mfa_u32)row, (mfa_u32)head, (mfa_u32)batch}};
    return counter;
}

/* Of slice 0 .. 7 of a call's result. */
static inline mfa_u32 mfa_rule_dropout_slice(mfa_philox result, int slice) {
    return result.word[slice / 2] >> (slice % 2 * 16) & 0xffffu;
}

static inline mfa_u32 mfa_rule_dropout_bits(mfa_philox_key key, mfa_index batch, mfa_index head, mfa_index row,
                                            mfa_index column) {
    mfa_philox result = mfa_rule_philox(mfa_rule_dropout_counter(batch, head, row, column), key);
    return mfa_rule_dropout_slice(result, (int)(column % MFA_DROPOUT_COLUMNS / MFA_DROPOUT_LANES));
}

static inline mfa_u32 mfa_rule_dropout_threshold(float dropout_p) { return (mfa_u32)(dropout_p * 65536.0f + 0.5f); }

#endif
