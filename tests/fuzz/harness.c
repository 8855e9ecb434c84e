#include "harness.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "found: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\nlast message: %s\n", mfa_last_error_message(NULL));
    va_end(arguments);
    abort();
}

bool planted(const char *fault) {
    const char *wanted = getenv("MFA_FUZZ_PLANT");
    return wanted != NULL && strcmp(wanted, fault) == 0;
}

mfa_context_t context_of(int instruction_set, int threads) {
    static const int32_t ids[INSTRUCTION_SETS] = {MFA_CPU_ISA_AUTO, MFA_CPU_ISA_AVX2, MFA_CPU_ISA_SCALAR,
                                                  MFA_CPU_ISA_NEON};
    static mfa_context_t contexts[INSTRUCTION_SETS][2];
    mfa_context_t *context = &contexts[instruction_set][threads > 1];
    if (*context != NULL)
        return *context;
    mfa_context_options_t options = MFA_CONTEXT_OPTIONS_INIT;
    options.backend = MFA_BACKEND_CPU;
    options.num_threads = threads;
    options.cpu_isa = ids[instruction_set];
    if (mfa_create_context_with_options(&options, context) == MFA_ERROR_DEVICE_NOT_SUPPORTED)
        *context = context_of(0, threads);
    EXPECT(*context != NULL, "no context");
    return *context;
}

static const char stale[] = "data is NULL, but size_bytes is 770077";

void forget_message(void) {
    mfa_buffer_t buffer;
    mfa_buffer_from_ptr(context_of(0, 1), NULL, 770077, &buffer);
    EXPECT(strcmp(mfa_last_error_message(NULL), stale) == 0, "NULL data is not refused");
}

static bool names_an_argument(const char *message) {
    static const char *const names[] = {
        "query",
        "key",
        "value",
        "out",
        "logsumexp",
        "mask",
        "alibi_slopes",
        "sinks",
        "dout",
        "dlogsumexp",
        "dquery",
        "dkey",
        "dvalue",
        "dbias",
        "dsinks",
        "q",
        "k",
        "v",
        "dq",
        "dk",
        "dv",
        "desc",
        "forward",
        "context",
        "plan",
        "flags",
        "options",
        "info",
        "buffer",
        "size_bytes",
        "data",
        "alignment",
        "window_left",
        "target",
        "softcap",
        "dropout_p",
        "mtl_buffer",
        "window_right",
        "device",
        "softmax_scale",
        "intermediate_precision",
        "reserved",
        "bool_mask",
        "additive_mask",
        "environment variable",
        "chunk",
        "sequences",
        "pages",
        "blocks",
        "key_quantization",
        "value_quantization",
        "quantization",
        "compute_mode",
        "inputs_fp32",
        "outputs",
        "params",
        "key_params",
        "value_params",
        "precision",
        "scale",
        "zero_point",
        "range_min",
        "range_max",
        "grad_output",
        "grad_query",
        "grad_key",
        "grad_value",
        "d_values",
        "delta",
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; ++i) {
        const size_t length = strlen(names[i]);
        if (strncmp(message, names[i], length) == 0 && strchr(" .:,[", message[length]) != NULL)
            return true;
    }
    return false;
}

mfa_status_t checked(const char *call, mfa_status_t status) {
    const char *message = planted("stale message") ? stale : mfa_last_error_message(NULL);
    EXPECT(status >= MFA_SUCCESS && status <= MFA_ERROR_UNSUPPORTED, "%s gave status %d", call, status);
    EXPECT(status == MFA_SUCCESS || strcmp(message, stale) != 0, "%s gave status %d and no message", call, status);
    EXPECT(status != MFA_ERROR_INVALID_ARGS || names_an_argument(message), "%s names no argument", call);
    EXPECT(strlen(message) < 2048, "%s has a message of %zu bytes", call, strlen(message));
    return status;
}

/* So that memory that cannot be had is refused, as malloc does, instead of reported. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) { return "allocator_may_return_null=1"; }
