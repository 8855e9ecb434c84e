/* The descriptor tier: check once, pick a backend, run. */
#include <string.h>

#include "core/context.h"
#include "core/versioned.h"

static _Thread_local double last_seconds;

double mfa_get_gpu_latency(mfa_context_t context) {
    (void)context;
    return last_seconds;
}

typedef struct {
    const mfai_backend_t *backend;
    void *device;
    mfa_plan_t plan;
} choice;

static void copy_message(char *to, size_t size) { strncpy(to, mfa_last_error_message(NULL), size - 1); }

/* Asks the context's backend and then, if the context allows it, the CPU. The refusal of the first stays as the
   plan's reason. */
static mfa_status_t choose(mfa_context_t context, const mfai_problem_t *problem, choice *chosen) {
    *chosen = (choice){context->backend, context->device, MFA_PLAN_INIT};
    mfa_plan_t *plan = &chosen->plan;
    plan->backend = context->backend->id;
    mfa_status_t status = context->backend->forward_plan(context->device, problem, plan);
    if (status == MFA_ERROR_UNSUPPORTED && context->fallback != NULL) {
        copy_message(plan->reason, sizeof plan->reason);
        chosen->backend = context->fallback;
        chosen->device = context->fallback_device;
        plan->backend = context->fallback->id;
        plan->fallback = 1;
        status = context->fallback->forward_plan(context->fallback_device, problem, plan);
    }
    return status;
}

mfa_status_t mfa_attention_forward_desc(mfa_context_t context, const mfa_attention_desc_t *desc) {
    MFA_REQUIRE(context != NULL, "context is NULL");
    mfai_problem_t problem;
    choice chosen;
    MFA_TRY(mfai_problem_import(context, desc, &problem));
    MFA_TRY(choose(context, &problem, &chosen));
    double seconds = 0;
    MFA_TRY(chosen.backend->forward(chosen.device, &problem, &seconds));
    last_seconds = seconds;
    return MFA_SUCCESS;
}

mfa_status_t mfa_attention_forward_plan(mfa_context_t context, const mfa_attention_desc_t *desc, mfa_plan_t *caller) {
    MFA_REQUIRE(context != NULL, "context is NULL");
    mfai_problem_t problem;
    choice chosen;
    MFA_TRY(mfai_problem_import(context, desc, &problem));
    mfa_status_t status = choose(context, &problem, &chosen);
    if (status != MFA_SUCCESS) {
        chosen.plan.status = status;
        copy_message(chosen.plan.reason, sizeof chosen.plan.reason);
    }
    return mfai_struct_export("plan", caller, sizeof chosen.plan, sizeof chosen.plan, &chosen.plan);
}
