/* Sequences and pages: their structs, the sizes that follow from them, and tables of what their lists say. */
#ifndef MFA_CORE_SEQUENCES_H
#define MFA_CORE_SEQUENCES_H

#include "core/problem.h"

/* Sizes of the problem that sequences and pages determine, from shapes and, where the CPU can read them, lists, each of
   which is checked once and makes the tables. `sequences`: NULL, or what the struct holds. */
mfa_status_t mfai_sequences_set_sizes(const mfa_sequences_t *sequences, mfai_problem_t *problem);

/* Then, of all operands: where the tables say that their rows lie. */
void mfai_sequences_lay_out(mfai_problem_t *problem);

#endif
