/* New rows of the cache, and the turning of queries and new keys: what their operands have to be. */
#ifndef MFA_CORE_APPEND_H
#define MFA_CORE_APPEND_H

#include "core/problem.h"

/* What depends on no list. The operands' shapes have been checked. */
mfa_status_t mfai_append_check(const mfai_problem_t *problem);

/* Sequence i's new rows, behind the keys that `length` has; with them it may have `capacity` at most, `padding` of them
   not there. */
mfa_status_t mfai_append_read(const mfai_problem_t *problem, int64_t i, int64_t capacity, int64_t padding,
                              mfai_length_t *length, mfai_place_t *place);

/* Whether the rotary tables have the positions of all rows, once all sizes and bounds are known. */
mfa_status_t mfai_append_check_positions(const mfai_problem_t *problem);

#endif
