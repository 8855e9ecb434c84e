/* Every call that Metal allows to fail, failing in turn: the library says what happened, writes nothing and leaks
   nothing. */
#import <Metal/Metal.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "check.h"
#include "control.h"
#include "mfa.h"

enum { SEQUENCE = 24, HEAD_DIM = 16, ELEMENTS = SEQUENCE * HEAD_DIM, BYTES = ELEMENTS * 4, PAGES = 65536 };
enum { UNTOUCHED = 0x5a };

typedef struct {
    float *out, *logsumexp, *dquery; /* what a run writes; pages of their own */
    const float *input;              /* read-only, so that it is copied */
} memory_t;

static void *new_pages(void) { return mmap(NULL, PAGES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0); }

static memory_t open_memory(void) {
    float *input = new_pages();
    for (int i = 0; i < ELEMENTS; ++i)
        input[i] = (float)(i % 13) / 13;
    mprotect(input, PAGES, PROT_READ);
    return (memory_t){new_pages(), new_pages(), new_pages(), input};
}

static void reset(const memory_t *m) {
    memset(m->out, UNTOUCHED, PAGES);
    memset(m->logsumexp, UNTOUCHED, PAGES);
    memset(m->dquery, UNTOUCHED, PAGES);
}

static int is_untouched(const void *data) {
    const unsigned char *bytes = data;
    for (int i = 0; i < PAGES; ++i)
        if (bytes[i] != UNTOUCHED)
            return 0;
    return 1;
}

static mfa_tensor_t tensor(const void *data, int64_t width) {
    mfa_tensor_t t = MFA_TENSOR_INIT;
    const int64_t shape[4] = {1, 1, SEQUENCE, width}, stride[4] = {0, 0, width, 1};
    memcpy(t.shape, shape, sizeof shape);
    memcpy(t.stride, stride, sizeof stride);
    t.data = (void *)data;
    return t;
}

typedef struct {
    mfa_status_t status;
    const char *at;
} outcome_t;

#define STEP(call)                                  \
    do {                                            \
        const mfa_status_t step_status = (call);    \
        if (step_status != MFA_SUCCESS)             \
            return (outcome_t){step_status, #call}; \
    } while (0)

/* A forward and a backward call through a buffer that the context owns, memory that is wrapped and memory that is
   copied. */
static outcome_t run_calls(mfa_context_t context, mfa_buffer_t owned, const memory_t *m) {
    mfa_tensor_t query = tensor(NULL, HEAD_DIM), key = tensor(m->input, HEAD_DIM), out = tensor(m->out, HEAD_DIM);
    mfa_tensor_t logsumexp = tensor(m->logsumexp, 1), dquery = tensor(m->dquery, HEAD_DIM);
    query.buffer = owned;
    mfa_attention_desc_t forward = MFA_ATTENTION_DESC_INIT;
    forward.query = &query;
    forward.key = forward.value = &key;
    forward.out = &out;
    forward.logsumexp = &logsumexp;
    mfa_attention_backward_desc_t backward = MFA_ATTENTION_BACKWARD_DESC_INIT;
    backward.forward = &forward;
    backward.dout = &key;
    backward.dquery = &dquery;
    STEP(mfa_attention_forward_desc(context, &forward));
    STEP(mfa_attention_backward_desc(context, &backward));
    return (outcome_t){MFA_SUCCESS, ""};
}

static outcome_t run(const memory_t *m) {
    mfa_context_options_t options = MFA_CONTEXT_OPTIONS_INIT;
    options.backend = MFA_BACKEND_METAL;
    mfa_context_t context = NULL;
    mfa_buffer_t owned = NULL;
    outcome_t outcome;
    reset(m);
    STEP(mfa_create_context_with_options(&options, &context));
    const mfa_status_t status = mfa_create_buffer(context, BYTES, &owned);
    outcome = status == MFA_SUCCESS ? run_calls(context, owned, m) : (outcome_t){status, "mfa_create_buffer"};
    mfa_destroy_buffer(owned);
    mfa_destroy_context(context);
    return outcome;
}

/* What a failure of each kind may be reported as. A buffer that cannot wrap memory is replaced by a copy, and a default
   device by the first that is listed. */
static int is_fitting(emu_call_kind kind, mfa_status_t status) {
    switch (kind) {
    case EMU_CALL_DEVICE:
        return status == MFA_SUCCESS;
    case EMU_CALL_QUEUE:
        return status == MFA_ERROR_MEMORY_ALLOCATION;
    case EMU_CALL_BUFFER:
        return status == MFA_ERROR_MEMORY_ALLOCATION || status == MFA_SUCCESS;
    case EMU_CALL_LIBRARY:
    case EMU_CALL_FUNCTION:
    case EMU_CALL_PIPELINE:
        return status == MFA_ERROR_KERNEL_COMPILATION;
    default:
        return status == MFA_ERROR_EXECUTION_FAILED;
    }
}

static void check_failing(size_t number, emu_call_kind kind, const memory_t *m, const memory_t *wanted) {
    emu_calls_reset();
    emu_calls_fail(number);
    outcome_t outcome;
    @autoreleasepool {
        outcome = run(m);
    }
    CHECK(is_fitting(kind, outcome.status));
    if (!is_fitting(kind, outcome.status))
        fprintf(stderr, "  call %zu, a %s: status %d at %s\n", number, emu_call_kind_name(kind), outcome.status,
                outcome.at);
    if (outcome.status == MFA_SUCCESS) {
        CHECK(memcmp(m->out, wanted->out, PAGES) == 0 && memcmp(m->dquery, wanted->dquery, PAGES) == 0);
    } else {
        CHECK(mfa_last_error_message(NULL)[0] != '\0');
        CHECK(is_untouched(m->dquery));
        CHECK(strstr(outcome.at, "backward") != NULL || (is_untouched(m->out) && is_untouched(m->logsumexp)));
    }
    CHECK(emu_live_count(NULL) == 0);
}

int main(void) {
    const memory_t wanted = open_memory(), m = open_memory();
    emu_calls_reset();
    @autoreleasepool {
        CHECK(run(&wanted).status == MFA_SUCCESS);
    }
    CHECK(emu_live_count(NULL) == 0);
    const size_t count = emu_calls_count();
    emu_call_kind *kinds = malloc(count * sizeof *kinds);
    int seen[EMU_CALL_KINDS] = {0};
    for (size_t i = 0; i < count; ++i) {
        kinds[i] = emu_calls_kind(i + 1);
        seen[kinds[i]] = 1;
    }
    for (int kind = 0; kind < EMU_CALL_KINDS; ++kind)
        CHECK(seen[kind]);
    for (size_t i = 0; i < count; ++i)
        check_failing(i + 1, kinds[i], &m, &wanted);
    free(kinds);
    return check_report();
}
