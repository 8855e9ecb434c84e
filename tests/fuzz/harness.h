/* What every target does: contexts, checked calls, and failing so that libFuzzer keeps the input. */
#ifndef FUZZ_HARNESS_H
#define FUZZ_HARNESS_H

#include "mfa.h"
#include "reader.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

__attribute__((noreturn, format(printf, 1, 2))) void fail(const char *format, ...);

#define EXPECT(condition, ...) ((condition) ? (void)0 : fail(__VA_ARGS__))

/* Whether MFA_FUZZ_PLANT names this fault, which the harness then commits in the library's stead.
   tests/fuzz/test_fuzz.py sees that each is found, by the program that fuzzes. */
bool planted(const char *fault);

enum { INSTRUCTION_SETS = 4 };

/* The CPU's context for 1 or 3 threads and an instruction set, counted from the machine's best; made at the first
   use. */
mfa_context_t context_of(int instruction_set, int threads);

/* Makes the last message one that no call but this leaves. */
void forget_message(void);

/* Passes on the status of a call made after forget_message: one of the header's, and with a message that says which
   argument was wrong if arguments were. */
mfa_status_t checked(const char *call, mfa_status_t status);

#endif
