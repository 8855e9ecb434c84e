/* New rows for the cache on Metal: in the caller's memory, which some calls copy and some do not. */
#include <sys/mman.h>
#include <unistd.h>

#include "appending.h"

/* Between pages that nobody may touch, memory cannot be wrapped. */
static void *move_between_guards(operand_t *operand) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), inside = (operand->bytes + page - 1) / page * page;
    char *pages = mmap(NULL, inside + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANON, -1, 0);
    CHECK(pages != MAP_FAILED && mprotect(pages + page, inside, PROT_READ | PROT_WRITE) == 0);
    memcpy(pages + page, operand->tensor.data, operand->bytes);
    void *before = operand->tensor.data;
    operand->tensor.data = pages + page;
    return before;
}

static void test_a_copied_cache(mfa_context_t context) {
    const case_t c = {.precision = MFA_PRECISION_FP16,
                      .table_precision = MFA_PRECISION_FP32,
                      .place = BATCHES,
                      .turn = HALVES,
                      .pairs = 7,
                      .padded = true,
                      .causal = true};
    call_t call = make_call(&c), before = copy_call(&call);
    void *const key = move_between_guards(&call.key), *const value = move_between_guards(&call.value);
    CHECK(run(context, &call) == MFA_SUCCESS);
    check_call(&call, &before);
    call.key.tensor.data = key, call.value.tensor.data = value; /* the pages go with the process */
    free_call(&call), free_call(&before);
}

int main(void) {
    mfa_context_options_t options = MFA_CONTEXT_OPTIONS_INIT;
    options.backend = MFA_BACKEND_METAL;
    mfa_context_t context = NULL, other = NULL;
    CHECK(mfa_create_context_with_options(&options, &context) == MFA_SUCCESS);
    CHECK(mfa_create_context_with_options(&options, &other) == MFA_SUCCESS);
    test_cases(context, other, 1);
    test_a_copied_cache(context);
    test_errors(context);
    mfa_destroy_context(context);
    mfa_destroy_context(other);
    return check_report();
}
