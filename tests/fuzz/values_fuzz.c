/* Calls that are right give the right values, the same for any number of threads, and write nothing else. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "reference.h"

static void run(problem_t *p, mfa_context_t context, bool backward, int threads) {
    const char *call = backward ? "backward" : "forward";
    problem_before(p, backward ? BACKWARD_WRITES : FORWARD_WRITES);
    forget_message();
    const mfa_status_t status = backward ? mfa_attention_backward_desc(context, &p->backward)
                                         : mfa_attention_forward_desc(context, &p->forward);
    EXPECT(checked(call, status) == MFA_SUCCESS, "%s of a right call gave status %d", call, status);
    operand_t *first = &p->operands[backward ? DQUERY : OUT];
    if (first->present && first->bytes > 0) {
        unsigned char *element = first->memory + first->first;
        if (planted("wrong value"))
            element[precision_size(first->tensor.precision) - 1] ^= 0x40;
        if (planted("one thread differs") && threads == 1)
            element[0] ^= 1;
        if (planted("write past the end"))
            memset(first->memory, 0, first->bytes + 1);
    }
    if (planted("write to an operand") && p->operands[KEY].bytes > 0)
        p->operands[KEY].memory[0] ^= 1;
    problem_expect_unchanged(p, backward ? BACKWARD_WRITES : FORWARD_WRITES, call);
}

static void run_with_threads(problem_t *p, int instruction_set, bool backward, int threads) {
    mfa_context_t context = context_of(instruction_set, threads);
    problem_bind(p, context);
    run(p, context, backward, threads);
    problem_unbind(p);
}

/* With 3 threads and with 1; the results of the latter stay. */
static void run_twice(problem_t *p, const reference_t *reference, int instruction_set, bool backward) {
    unsigned char *snapshots[OPERANDS] = {NULL};
    const uint64_t written = backward ? BACKWARD_WRITES : FORWARD_WRITES;
    run_with_threads(p, instruction_set, backward, 3);
    for (int i = 0; i < OPERANDS; ++i)
        if (p->operands[i].present && (written >> i & 1))
            snapshots[i] = problem_snapshot(p, i);
    run_with_threads(p, instruction_set, backward, 1);
    reference_expect(p, reference, written, backward ? "backward" : "forward");
    for (int i = 0; i < OPERANDS; ++i) {
        EXPECT(snapshots[i] == NULL || p->operands[i].bytes == 0 ||
                   memcmp(snapshots[i], p->operands[i].memory, p->operands[i].bytes) == 0,
               "%s has other bits with 1 thread than with 3", operand_names[i]);
        free(snapshots[i]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    reader_t reader = {data, data + size};
    const int instruction_set = read_below(&reader, INSTRUCTION_SETS);
    problem_t problem;
    reference_t reference;
    problem_read(&reader, 1 << 16, true, &problem);
    reference_make(&problem, &reference);
    run_twice(&problem, &reference, instruction_set, false);
    if (problem.has_backward)
        run_twice(&problem, &reference, instruction_set, true);
    reference_free(&reference);
    problem_free(&problem);
    return 0;
}
