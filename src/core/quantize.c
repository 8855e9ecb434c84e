/* Quantising a tensor: check once, find a CPU, run. */
#include "core/quantize.h"

#include <inttypes.h>

#include "core/context.h"
#include "core/entry.h"
#include "core/integers.h"
#include "core/overlap.h"
#include "core/quantization.h"
#include "core/registry.h"
#include "core/versioned.h"

enum {
    FACTORS = MFAI_FORMAT_BIT(MFAI_FORMAT_FP32) | MFAI_FORMAT_BIT(MFAI_FORMAT_FP16),
    WHOLE = MFAI_FORMAT_BIT(MFAI_FORMAT_INT32) | MFAI_FORMAT_BIT(MFAI_FORMAT_INT8) | MFAI_FORMAT_BIT(MFAI_FORMAT_UINT8),
    BATCHES_AND_HEADS = 3, /* axes along which one may stand for all */
    OPERANDS = 5
};

typedef struct {
    const char *name;
    const mfai_view_t *view;
    bool is_written;
} operand_t;

/* Results first. */
static void list_operands(const mfai_quantize_t *call, operand_t operands[OPERANDS]) {
    const mfai_quantization_t *quantization = &call->quantization;
    const operand_t listed[OPERANDS] = {
        {"codes", &call->codes, true},
        {"quantization.scales", &quantization->scales, !call->is_static},
        {"quantization.zero_points", &quantization->zero_points, !call->is_static},
        {"quantization.mean", &quantization->mean, !call->is_static},
        {"input", &call->input, false},
    };
    for (int i = 0; i < OPERANDS; ++i)
        operands[i] = listed[i];
}

static mfa_status_t check_shapes(const mfai_quantize_t *call) {
    const mfai_quantization_t *quantization = &call->quantization;
    const int64_t *shape = call->input.shape;
    MFAI_TRY(mfai_view_expect("codes", &call->codes, shape, 0));
    const int64_t scales[4] = {shape[0], shape[1], mfai_scale_count(shape[2], quantization->rows),
                               mfai_scale_count(shape[3], quantization->columns)};
    MFAI_TRY(mfai_view_expect("quantization.scales", &quantization->scales, scales, BATCHES_AND_HEADS));
    if (quantization->zero_points.present)
        MFAI_TRY(
            mfai_view_expect("quantization.zero_points", &quantization->zero_points, quantization->scales.shape, 0));
    const int64_t mean[4] = {shape[0], shape[1], 1, shape[3]};
    if (quantization->mean.present)
        MFAI_TRY(mfai_view_expect("quantization.mean", &quantization->mean, mean, BATCHES_AND_HEADS));
    return MFA_SUCCESS;
}

/* Zero points are codes: all of them have to be numbers of their precision. */
static mfa_status_t check_zero_points(const mfai_quantize_t *call) {
    const int32_t codes = call->codes.format, format = call->quantization.zero_points.format;
    MFAI_REQUIRE(call->quantization.zero_points.present || mfai_formats[codes].is_signed,
                 "quantization.zero_points is NULL, expected zero points for %s codes", mfai_formats[codes].name);
    if (!call->quantization.zero_points.present || format == MFAI_FORMAT_INT32)
        return MFA_SUCCESS;
    MFAI_REQUIRE(mfai_format_lowest(format) <= mfai_format_lowest(codes) &&
                     mfai_format_highest(format) >= mfai_format_highest(codes),
                 "quantization.zero_points.precision is %s, which does not have all of %d to %d, the codes of %s",
                 mfai_formats[format].name, mfai_format_lowest(codes), mfai_format_highest(codes),
                 mfai_formats[codes].name);
    return MFA_SUCCESS;
}

static mfa_status_t check_memory(const mfai_quantize_t *call) {
    operand_t operands[OPERANDS];
    list_operands(call, operands);
    for (int i = 0; i < OPERANDS; ++i) {
        const operand_t *result = &operands[i];
        if (mfai_view_is_on_device(result->view))
            return mfai_fail(MFA_ERROR_UNSUPPORTED,
                             "%s lies in a Metal buffer in private storage, which the CPU cannot reach", result->name);
        if (!result->is_written || !result->view->present)
            continue;
        MFAI_TRY(mfai_view_expect_injective(result->name, result->view));
        for (int j = 0; j < OPERANDS; ++j) {
            const bool compared = j > i || !operands[j].is_written;
            MFAI_REQUIRE(j == i || !compared || !mfai_views_overlap(result->view, operands[j].view),
                         "%s overlaps %s in memory, expected memory of its own", result->name, operands[j].name);
        }
    }
    return MFA_SUCCESS;
}

static mfa_status_t import_quantization(mfa_context_t context, const mfa_quantization_t *caller,
                                        mfai_quantization_t *quantization) {
    mfa_quantization_t known = MFA_QUANTIZATION_INIT;
    MFAI_TRY(mfai_struct_import("quantization", caller, MFAI_QUANTIZATION_FIRST_SIZE, sizeof known, &known));
    MFAI_TRY(mfai_quantization_set("quantization", &known, quantization));
    MFAI_REQUIRE(known.scales != NULL, "quantization.scales is NULL");
    MFAI_TRY(mfai_view_import("quantization.scales", context, known.scales, FACTORS, &quantization->scales));
    MFAI_TRY(
        mfai_view_import("quantization.zero_points", context, known.zero_points, WHOLE, &quantization->zero_points));
    return mfai_view_import("quantization.mean", context, known.mean, MFAI_FORMAT_BIT(MFAI_FORMAT_FP32),
                            &quantization->mean);
}

mfa_status_t mfai_quantize_import(mfa_context_t context, const mfa_quantize_desc_t *caller, mfai_quantize_t *call) {
    *call = (mfai_quantize_t){0};
    MFAI_REQUIRE(context != NULL, "context is NULL");
    mfa_quantize_desc_t desc = MFA_QUANTIZE_DESC_INIT;
    MFAI_TRY(mfai_struct_import("desc", caller, MFAI_QUANTIZE_DESC_FIRST_SIZE, sizeof desc, &desc));
    const uint32_t known = MFA_QUANTIZE_STATIC | MFA_QUANTIZE_SATURATE;
    MFAI_REQUIRE((desc.flags & ~known) == 0, "flags is 0x%x, which has bits this library does not know (known: 0x%x)",
                 desc.flags, known);
    call->is_static = desc.flags & MFA_QUANTIZE_STATIC;
    call->saturates = desc.flags & MFA_QUANTIZE_SATURATE;
    MFAI_REQUIRE(desc.input != NULL, "input is NULL");
    MFAI_REQUIRE(desc.codes != NULL, "codes is NULL");
    MFAI_TRY(mfai_view_import("input", context, desc.input, MFAI_FLOATING, &call->input));
    MFAI_TRY(mfai_view_import("codes", context, desc.codes, MFAI_CODES, &call->codes));
    MFAI_TRY(import_quantization(context, desc.quantization, &call->quantization));
    MFAI_TRY(check_shapes(call));
    MFAI_TRY(check_zero_points(call));
    MFAI_TRY(check_memory(call));
    return call->is_static ? mfai_quantization_check_static(&call->quantization, call->codes.format) : MFA_SUCCESS;
}

mfa_status_t mfai_quantize_run(mfa_context_t context, const mfai_quantize_t *call) {
    if (context->backend->quantise != NULL)
        return context->backend->quantise(context->device, call);
    if (context->fallback != NULL)
        return context->fallback->quantise(context->fallback_device, call);
    /* One for this call, as the context would have had it to fall back to. */
    const mfai_backend_t *cpu = mfai_registry_find(MFA_BACKEND_CPU);
    void *device = NULL;
    MFAI_TRY(cpu->open(&context->options, &device));
    const mfa_status_t status = cpu->quantise(device, call);
    cpu->close(device);
    return status;
}

mfa_status_t mfa_quantize(mfa_context_t context, const mfa_quantize_desc_t *desc) {
    MFAI_ENTRY;
    mfai_quantize_t call;
    MFAI_TRY(mfai_quantize_import(context, desc, &call));
    return mfai_quantize_run(context, &call);
}
