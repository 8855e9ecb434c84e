/*
 * The rules that a row of attention obeys, written once for every backend: value-only functions in the subset
 * of C that C and the Metal Shading Language share (no pointers, so no address spaces).
 */
#ifndef MFA_RULES_H
#define MFA_RULES_H

#ifdef __METAL_VERSION__
typedef long mfa_index;
#else
#include <stdint.h>
typedef int64_t mfa_index;
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

#endif
