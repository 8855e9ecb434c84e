/*
 * The rules that a row of attention obeys, written once for every backend: value-only functions in the subset
 * of C that C and the Metal Shading Language share (no pointers, so no address spaces).
 */
#ifndef MFA_RULES_H
#define MFA_RULES_H

#ifdef __METAL_VERSION__
typedef long mfa_index;
typedef uint mfa_word;
typedef ulong mfa_wide;
#else
#include <stdint.h>
typedef int64_t mfa_index;
typedef uint32_t mfa_word;
typedef uint64_t mfa_wide;
#endif

/* Row i stands at key i + offset. left and right count keys on either side of it; negative: unbounded. */

/* First key that a causal or window bound lets the row see, in 0 .. key_count. */
static inline mfa_index mfa_rule_key_begin(mfa_index row, mfa_index offset, mfa_index left, mfa_index key_count) {
    mfa_index begin = left < 0 ? 0 : row + offset - left;
    begin = begin < 0 ? 0 : begin;
    return begin > key_count ? key_count : begin;
}

/* One past the last such key, in 0 .. key_count; not above key_begin if the row sees none. */
static inline mfa_index mfa_rule_key_end(mfa_index row, mfa_index offset, mfa_index right, mfa_index key_count) {
    mfa_index end = right < 0 ? key_count : row + offset + right + 1;
    end = end < 0 ? 0 : end;
    return end > key_count ? key_count : end;
}

static inline float mfa_rule_alibi(float slope, mfa_index row, mfa_index offset, mfa_index key) {
    mfa_index distance = row + offset - key;
    return -slope * (float)(distance < 0 ? -distance : distance);
}

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
    mfa_word word[4];
} mfa_philox;

typedef struct {
    mfa_word word[2];
} mfa_philox_key;

static inline mfa_philox_key mfa_rule_philox_next_key(mfa_philox_key key) {
    key.word[0] += 0x9e3779b9u;
    key.word[1] += 0xbb67ae85u;
    return key;
}

static inline mfa_philox mfa_rule_philox_round(mfa_philox x, mfa_philox_key key) {
    mfa_wide first = (mfa_wide)MFA_PHILOX_FIRST * x.word[0], second = (mfa_wide)MFA_PHILOX_SECOND * x.word[2];
    mfa_philox y;
    y.word[0] = (mfa_word)(second >> 32) ^ x.word[1] ^ key.word[0];
    y.word[1] = (mfa_word)second;
    y.word[2] = (mfa_word)(first >> 32) ^ x.word[3] ^ key.word[1];
    y.word[3] = (mfa_word)first;
    return y;
}

static inline mfa_philox mfa_rule_philox(mfa_philox counter, mfa_philox_key key) {
    for (int i = 0; i < MFA_PHILOX_ROUNDS; ++i) {
        counter = mfa_rule_philox_round(counter, key);
        key = mfa_rule_philox_next_key(key);
    }
    return counter;
}

static inline mfa_philox_key mfa_rule_dropout_key(mfa_wide seed, mfa_wide offset) {
    mfa_philox counter = {{(mfa_word)offset, (mfa_word)(offset >> 32), 0, 0}};
    mfa_philox_key key = {{(mfa_word)seed, (mfa_word)(seed >> 32)}};
    counter = mfa_rule_philox(counter, key);
    key.word[0] = counter.word[0];
    key.word[1] = counter.word[1];
    return key;
}

static inline mfa_philox mfa_rule_dropout_counter(mfa_index batch, mfa_index head, mfa_index row, mfa_index column) {
    mfa_index call = MFA_DROPOUT_LANES * (column / MFA_DROPOUT_COLUMNS) + column % MFA_DROPOUT_LANES;
    mfa_philox counter = {{(mfa_word)call, (mfa_word)row, (mfa_word)head, (mfa_word)batch}};
    return counter;
}

/* Of slice 0 .. 7 of a call's result. */
static inline mfa_word mfa_rule_dropout_slice(mfa_philox result, int slice) {
    return result.word[slice / 2] >> (slice % 2 * 16) & 0xffffu;
}

static inline mfa_word mfa_rule_dropout_bits(mfa_philox_key key, mfa_index batch, mfa_index head, mfa_index row,
                                             mfa_index column) {
    mfa_philox result = mfa_rule_philox(mfa_rule_dropout_counter(batch, head, row, column), key);
    return mfa_rule_dropout_slice(result, (int)(column % MFA_DROPOUT_COLUMNS / MFA_DROPOUT_LANES));
}

static inline mfa_word mfa_rule_dropout_threshold(float dropout_p) { return (mfa_word)(dropout_p * 65536.0f + 0.5f); }

#endif
