/* Calls do with the smallest stack that a thread may have. */
#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <unistd.h>

#include "calls.h"

static size_t least_stack(void) {
#if HAS_ADDRESS_SANITIZER
    return 1 << 20; /* frames are larger then */
#endif
#if defined(_SC_THREAD_STACK_MIN)
    const long size = sysconf(_SC_THREAD_STACK_MIN);
    if (size > 0)
        return (size_t)size;
#endif
    return PTHREAD_STACK_MIN;
}

static void *create(void *argument) { return mfa_create_context(argument) == MFA_SUCCESS ? argument : NULL; }

static void *call(void *argument) { return call_is_right(argument) ? argument : NULL; }

/* Calls of codes that are all 1, with as many scales of 1 as a granularity has. */
typedef struct {
    calls_t calls;
    int8_t codes[CALL_FLOATS];
    int64_t rows, columns, queries;
} coded_calls_t;

static mfa_status_t quantise_ones(const coded_calls_t *coded, const mfa_tensor_t *codes, const mfa_tensor_t *ones) {
    float scale = 1;
    mfa_tensor_t scales = MFA_TENSOR_INIT;
    scales.data = &scale;
    for (int axis = 0; axis < 4; ++axis)
        scales.shape[axis] = 1;
    mfa_quantization_t quantization = MFA_QUANTIZATION_INIT;
    quantization.scales = &scales;
    mfa_quantize_desc_t desc = MFA_QUANTIZE_DESC_INIT;
    desc.flags = MFA_QUANTIZE_STATIC;
    desc.input = ones;
    desc.codes = codes;
    desc.quantization = &quantization;
    return mfa_quantize(coded->calls.context, &desc);
}

static void *call_of_codes(void *argument) {
    coded_calls_t *coded = argument;
    const calls_t *calls = &coded->calls;
    mfa_tensor_t ones = call_tensor(calls->ones), out = call_tensor(calls->out), codes = call_tensor(NULL);
    codes.precision = MFA_PRECISION_INT8;
    codes.data = coded->codes;
    if (quantise_ones(coded, &codes, &ones) != MFA_SUCCESS)
        return NULL;
    mfa_tensor_t query = ones, scales = ones;
    query.shape[2] = out.shape[2] = coded->queries;
    scales.shape[2] = (CALL_ROWS + coded->rows - 1) / coded->rows;
    scales.shape[3] = coded->columns == 1 ? CALL_DIM : 1;
    mfa_quantization_t quantization = MFA_QUANTIZATION_INIT;
    quantization.rows = coded->rows;
    quantization.columns = coded->columns;
    quantization.scales = &scales;
    mfa_attention_desc_t desc = MFA_ATTENTION_DESC_INIT;
    desc.query = &query;
    desc.key = desc.value = &codes;
    desc.out = &out;
    desc.key_quantization = desc.value_quantization = &quantization;
    memset(calls->out, 0, CALL_FLOATS * sizeof(float));
    if (mfa_attention_forward_desc(calls->context, &desc) != MFA_SUCCESS)
        return NULL;
    for (int64_t h = 0; h < CALL_HEADS; ++h)
        for (int64_t i = 0; i < coded->queries * CALL_DIM; ++i)
            if (!(fabsf(calls->out[h * CALL_ROWS * CALL_DIM + i] - 1) < 0.01f))
                return NULL;
    return argument;
}

static void run_on_little(void *(*run)(void *), void *argument) {
    pthread_attr_t attributes;
    pthread_t thread;
    void *result = NULL;
    CHECK(pthread_attr_init(&attributes) == 0);
    CHECK(pthread_attr_setstacksize(&attributes, least_stack()) == 0);
    CHECK(pthread_create(&thread, &attributes, run, argument) == 0 && pthread_join(thread, &result) == 0);
    CHECK(result == argument);
    pthread_attr_destroy(&attributes);
}

int main(void) {
    mfa_context_t context = NULL;
    run_on_little(create, &context);
    mfa_destroy_context(context);
    calls_t calls = open_calls(2);
    run_on_little(call, &calls);
    static coded_calls_t coded;
    coded.calls = calls;
    for (coded.queries = 1; coded.queries <= CALL_ROWS; coded.queries += CALL_ROWS - 1)
        for (coded.columns = 0; coded.columns <= 1; ++coded.columns)
            for (coded.rows = 1; coded.rows <= 16; coded.rows += 15)
                run_on_little(call_of_codes, &coded);
    close_calls(&calls);
    return check_report();
}
