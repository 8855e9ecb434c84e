/* Large work, cut into command buffers that a device does one after the other: the same bits as in one, or an error
   that says so. */
#import <Metal/Metal.h>
#include <stdlib.h>

#include "check.h"
#include "control.h"
#include "core/context.h"
#include "emulator.h"
#import "metal/device.h"

enum { BATCH = 2, HEADS = 2, SEQUENCE = 70, HEAD_DIM = 8, ELEMENTS = BATCH * HEADS * SEQUENCE * HEAD_DIM };

typedef struct {
    float query[ELEMENTS], key[ELEMENTS], value[ELEMENTS], dout[ELEMENTS];
    float out[ELEMENTS], logsumexp[ELEMENTS / HEAD_DIM], dquery[ELEMENTS], dkey[ELEMENTS], dvalue[ELEMENTS];
} arrays_t;

static mfa_tensor_t tensor(void *data, int64_t width) {
    mfa_tensor_t t = MFA_TENSOR_INIT;
    const int64_t shape[4] = {BATCH, HEADS, SEQUENCE, width};
    const int64_t stride[4] = {HEADS * SEQUENCE * width, SEQUENCE * width, width, 1};
    memcpy(t.shape, shape, sizeof shape);
    memcpy(t.stride, stride, sizeof stride);
    t.data = data;
    return t;
}

static size_t calls_of(emu_call_kind kind) {
    size_t found = 0;
    for (size_t i = 1; i <= emu_calls_count(); ++i)
        found += emu_calls_kind(i) == kind;
    return found;
}

typedef struct {
    mfa_status_t forward, backward;
    uint64_t launches;
    size_t command_buffers;
} outcome_t;

/* A forward and a backward call. */
static outcome_t run(mfa_context_t context, arrays_t *a) {
    mfa_tensor_t query = tensor(a->query, HEAD_DIM), key = tensor(a->key, HEAD_DIM), value = tensor(a->value, HEAD_DIM);
    mfa_tensor_t out = tensor(a->out, HEAD_DIM), logsumexp = tensor(a->logsumexp, 1), dout = tensor(a->dout, HEAD_DIM);
    mfa_tensor_t dquery = tensor(a->dquery, HEAD_DIM), dkey = tensor(a->dkey, HEAD_DIM);
    mfa_tensor_t dvalue = tensor(a->dvalue, HEAD_DIM);
    mfa_attention_desc_t forward = MFA_ATTENTION_DESC_INIT;
    forward.query = &query;
    forward.key = &key;
    forward.value = &value;
    forward.out = &out;
    forward.logsumexp = &logsumexp;
    mfa_attention_backward_desc_t backward = MFA_ATTENTION_BACKWARD_DESC_INIT;
    backward.forward = &forward;
    backward.dout = &dout;
    backward.dquery = &dquery;
    backward.dkey = &dkey;
    backward.dvalue = &dvalue;
    emu_counters_reset();
    outcome_t outcome;
    outcome.forward = mfa_attention_forward_desc(context, &forward);
    outcome.backward = mfa_attention_backward_desc(context, &backward);
    emu_counters counters;
    emu_counters_read(&counters);
    outcome.launches = counters.launches;
    outcome.command_buffers = calls_of(EMU_CALL_COMMAND_BUFFER);
    return outcome;
}

/* Each kind of call that begins or runs the second of several command buffers. */
static void check_failing(mfa_context_t context, arrays_t *arrays) {
    static const emu_call_kind kinds[] = {EMU_CALL_COMMAND_BUFFER, EMU_CALL_ENCODER, EMU_CALL_EXECUTION};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; ++i) {
        emu_calls_reset();
        emu_calls_fail_kind(kinds[i], 2);
        const outcome_t outcome = run(context, arrays);
        CHECK(outcome.forward == MFA_ERROR_EXECUTION_FAILED && outcome.backward == MFA_SUCCESS);
        CHECK(emu_live_count("MTLCommandBuffer") == 0);
    }
}

int main(void) {
    mfa_context_options_t options = MFA_CONTEXT_OPTIONS_INIT;
    options.backend = MFA_BACKEND_METAL;
    mfa_context_t context = NULL;
    CHECK(mfa_create_context_with_options(&options, &context) == MFA_SUCCESS);
    arrays_t *whole = calloc(1, sizeof *whole), *cut = calloc(1, sizeof *cut);
    for (int i = 0; i < ELEMENTS; ++i) {
        whole->query[i] = (float)(i % 17) / 17;
        whole->key[i] = (float)(i % 29) / 29;
        whole->value[i] = (float)(i % 5) / 5;
        whole->dout[i] = (float)(i % 7) / 7;
    }
    *cut = *whole;
    emu_calls_reset();
    outcome_t outcome = run(context, whole);
    CHECK(outcome.forward == MFA_SUCCESS && outcome.backward == MFA_SUCCESS);
    const uint64_t launches = outcome.launches;
    CHECK(launches == 4); /* forward; delta, dquery, dkey with dvalue */
    CHECK(outcome.command_buffers == 2);

    mfai_metal_device_t *device = context->device;
    device->most_work = 1;
    emu_calls_reset();
    outcome = run(context, cut);
    CHECK(outcome.forward == MFA_SUCCESS && outcome.backward == MFA_SUCCESS);
    CHECK(outcome.launches >= launches + 4 * (BATCH * HEADS - 1)); /* one for each threadgroup */
    CHECK(outcome.command_buffers == outcome.launches);
    CHECK(memcmp(cut, whole, sizeof *cut) == 0);
    CHECK(mfa_get_gpu_latency(context) > 0);
    check_failing(context, cut);
    free(cut);
    free(whole);
    mfa_destroy_context(context);
    return check_report();
}
