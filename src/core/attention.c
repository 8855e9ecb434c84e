/* The descriptor tier: check once, pick a backend, run. */
#include <string.h>

#include "core/context.h"
#include "core/entry.h"
#include "core/record.h"
#include "core/versioned.h"

double mfa_get_gpu_latency(mfa_context_t context) {
    (void)context;
    return mfai_record()->seconds;
}

typedef struct {
    mfai_problem_t problem;
    const mfai_backend_t *backend;
    void *device;
    mfa_plan_t plan;
} call_t;

static void copy_message(char *to, size_t size) { strncpy(to, mfa_last_error_message(NULL), size - 1); }

static mfa_status_t ask(call_t *call, const mfai_backend_t *backend, void *device) {
    call->backend = backend;
    call->device = device;
    call->plan.backend = backend->id;
    return backend->plan(device, &call->problem, &call->plan);
}

/* Asks the CPU, if the context allows it, about what its backend refused. The refusal stays as the plan's reason. */
static mfa_status_t fall_back(mfa_context_t context, call_t *call) {
    if (context->fallback == NULL || mfai_problem_is_on_device(&call->problem))
        return MFA_ERROR_UNSUPPORTED;
    copy_message(call->plan.reason, sizeof call->plan.reason);
    call->plan.fallback = 1;
    return ask(call, context->fallback, context->fallback_device);
}

static mfa_status_t choose(mfa_context_t context, call_t *call) {
    call->plan = (mfa_plan_t)MFA_PLAN_INIT;
    const mfa_status_t status = ask(call, context->backend, context->device);
    return status == MFA_ERROR_UNSUPPORTED ? fall_back(context, call) : status;
}

/* No plan is asked for: a backend that refuses has written nothing. */
static mfa_status_t run(mfa_context_t context, call_t *call) {
    double seconds = 0;
    mfa_status_t status = context->backend->run(context->device, &call->problem, &seconds);
    if (status == MFA_ERROR_UNSUPPORTED) {
        call->plan = (mfa_plan_t)MFA_PLAN_INIT;
        MFAI_TRY(fall_back(context, call));
        status = call->backend->run(call->device, &call->problem, &seconds);
    }
    MFAI_TRY(status);
    mfai_record_seconds(seconds);
    return MFA_SUCCESS;
}

static mfa_status_t import(mfa_context_t context, mfai_pass_t pass, const void *desc, mfai_problem_t *problem) {
    MFAI_REQUIRE(context != NULL, "context is NULL");
    return mfai_problem_import(context, pass, desc, problem);
}

static mfa_status_t run_pass(mfa_context_t context, mfai_pass_t pass, const void *desc) {
    MFAI_ENTRY;
    call_t call;
    MFAI_TRY(import(context, pass, desc, &call.problem));
    const mfa_status_t status = run(context, &call);
    mfai_problem_release(&call.problem);
    return status;
}

static mfa_status_t plan_pass(mfa_context_t context, mfai_pass_t pass, const void *desc, mfa_plan_t *plan) {
    MFAI_ENTRY;
    call_t call;
    MFAI_TRY(import(context, pass, desc, &call.problem));
    const mfa_status_t status = choose(context, &call);
    mfai_problem_release(&call.problem);
    if (status != MFA_SUCCESS) {
        call.plan.status = status;
        copy_message(call.plan.reason, sizeof call.plan.reason);
    }
    return mfai_struct_export("plan", plan, MFAI_PLAN_FIRST_SIZE, sizeof call.plan, &call.plan);
}

static mfa_status_t encode_pass(mfa_context_t context, mfai_pass_t pass, const void *desc, void *target) {
    MFAI_ENTRY;
    MFAI_REQUIRE(context != NULL, "context is NULL");
    MFAI_REQUIRE(target != NULL, "target is NULL, expected a command buffer or encoder");
    if (context->backend->encode == NULL)
        return mfai_fail(MFA_ERROR_UNSUPPORTED, "the \"%s\" backend has no command buffers to encode into",
                         context->backend->name);
    mfai_problem_t problem;
    MFAI_TRY(import(context, pass, desc, &problem));
    const mfa_status_t status = context->backend->encode(context->device, &problem, target);
    mfai_problem_release(&problem);
    return status;
}

mfa_status_t mfa_attention_forward_desc(mfa_context_t context, const mfa_attention_desc_t *desc) {
    return run_pass(context, MFAI_FORWARD, desc);
}

mfa_status_t mfa_attention_forward_plan(mfa_context_t context, const mfa_attention_desc_t *desc, mfa_plan_t *plan) {
    return plan_pass(context, MFAI_FORWARD, desc, plan);
}

mfa_status_t mfa_attention_forward_encode(mfa_context_t context, const mfa_attention_desc_t *desc, void *target) {
    return encode_pass(context, MFAI_FORWARD, desc, target);
}

mfa_status_t mfa_attention_backward_desc(mfa_context_t context, const mfa_attention_backward_desc_t *desc) {
    return run_pass(context, MFAI_BACKWARD, desc);
}

mfa_status_t mfa_attention_backward_plan(mfa_context_t context, const mfa_attention_backward_desc_t *desc,
                                         mfa_plan_t *plan) {
    return plan_pass(context, MFAI_BACKWARD, desc, plan);
}

mfa_status_t mfa_attention_backward_encode(mfa_context_t context, const mfa_attention_backward_desc_t *desc,
                                           void *target) {
    return encode_pass(context, MFAI_BACKWARD, desc, target);
}
