/* Dropout as mfa_rule_dropout_bits has it, for the weights that a lane holds of a row. */
#ifndef MFA_DROPOUT_H
#define MFA_DROPOUT_H

#include "mfa_kernel.h"

struct mfa_dropout {
    mfa_philox_key key;
    mfa_u32 threshold;
    float factor;
    mfa_index batch, head;
};

inline mfa_dropout mfa_dropout_of(constant mfa_metal_params &p, mfa_index batch, mfa_index head) {
    mfa_dropout dropout;
    dropout.key.word[0] = p.dropout_key.word[0];
    dropout.key.word[1] = p.dropout_key.word[1];
    dropout.threshold = p.dropout_threshold;
    dropout.factor = p.keep_factor;
    dropout.batch = batch;
    dropout.head = head;
    return dropout;
}

/* Factors of the keys first_key + 8 f + column and the next, for each fragment f. first_key is a multiple of 8 * FRAGMENTS, which
   is 8, 16, 32, 64 or 128: one call of Philox then serves every other fragment. */
template <int FRAGMENTS>
inline void mfa_dropout_factors(mfa_dropout dropout, mfa_index row, mfa_index first_key, int column,
                                thread float2 (&factors)[FRAGMENTS]) {
    const int calls = FRAGMENTS < 2 ? FRAGMENTS : 2;
#pragma unroll
    for (int f = 0; f < calls; ++f)
        for (int i = 0; i < 2; ++i) {
            const mfa_index key = first_key + 8 * f + column + i;
            const mfa_philox result =
                mfa_rule_philox(mfa_rule_dropout_counter(dropout.batch, dropout.head, row, key), dropout.key);
            const int slice = int(key % MFA_DROPOUT_COLUMNS / MFA_DROPOUT_LANES);
#pragma unroll
            for (int g = f; g < FRAGMENTS; g += 2)
                factors[g][i] =
                    mfa_rule_dropout_slice(result, slice + g / 2) < dropout.threshold ? 0.0f : dropout.factor;
        }
}

#endif
