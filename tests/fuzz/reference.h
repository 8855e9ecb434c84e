/*
 * Attention and its gradients as include/mfa.h defines them, element by element in double precision, with how far from
 * that float32 arithmetic may be: the bounds of tests/support/tolerance.py and gradient_tolerance.py.
 */
#ifndef FUZZ_REFERENCE_H
#define FUZZ_REFERENCE_H

#include "problem.h"

typedef struct {
    double *value, *bound; /* packed; a bound of NaN: not compared; of infinity: the same infinity, or for NaN anything
                              not finite */
} expected_t;

typedef struct {
    expected_t of[OPERANDS];
} reference_t;

/* Of the outputs that the problem has. The gradients are those of what the forward pass should have written. */
void reference_make(const problem_t *problem, reference_t *reference);
void reference_free(reference_t *reference);

/* Fails where an output is farther from the reference than its bound. */
void reference_expect(const problem_t *problem, const reference_t *reference, uint64_t written, const char *call);

#endif
