/*
 * Which tiles of the scores are visited: every loop over tiles asks here. Causal, window and chunk bounds leave one run
 * of keys to a row, in which the problem's blocks may leave holes.
 */
#ifndef MFA_ATTN_WALK_H
#define MFA_ATTN_WALK_H

#include "attn/extent.h"

/* A hole of fewer keys is visited: leaving it out would cost more. */
enum { MFAI_WALK_LEAST_HOLE = 32 };

/* Of the heads `heads` of one batch, whose rows are visited together. */
typedef struct {
    const mfai_problem_t *problem;
    mfa_extent extent;
    int64_t batch;
    mfa_span heads;
} mfai_walk_t;

static inline mfai_walk_t mfai_walk_of(const mfai_problem_t *problem, int64_t batch, mfa_span heads) {
    return (mfai_walk_t){problem, mfai_extent_of(problem, batch), batch, heads};
}

/* Whether some of the rows may see some of the keys. */
bool mfai_walk_visits(const mfai_walk_t *walk, mfa_span rows, mfa_span keys);

/* The first run of at most `most` of the keys `among` that some of the rows may see, and small holes between them;
   empty behind the last. Without holes, runs follow each other from the first key that a bound lets a row see. */
mfa_span mfai_walk_next(const mfai_walk_t *walk, mfa_span rows, mfa_span among, int64_t most);

/* The last of the tiles 0 .. tile - 1, of `size` keys each, that the rows visit; -1: none. What comes into sums in the
   order of the keys waits for it alone. */
int64_t mfai_walk_before(const mfai_walk_t *walk, mfa_span rows, int64_t tile, int64_t size);

#endif
