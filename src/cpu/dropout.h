/* Dropout as the kernels take it. */
#ifndef MFA_CPU_DROPOUT_H
#define MFA_CPU_DROPOUT_H

#include "cpu/kernels.h"

static inline mfai_cpu_dropout_t mfai_cpu_dropout(const mfai_problem_t *problem) {
    return (mfai_cpu_dropout_t){.on = problem->dropout_p > 0,
                                .key = mfa_rule_dropout_key(problem->dropout_seed, problem->dropout_offset),
                                .threshold = mfa_rule_dropout_threshold(problem->dropout_p),
                                .factor = 1 / (1 - problem->dropout_p)};
}

#endif
