/* Every way in which a descriptor can be wrong, with what the message says. */
#include "core/problem.h"

#include "check.h"
#include "core/context.h"

static float memory[9][1 << 14];

typedef struct {
    mfa_context_t context;
    mfa_tensor_t query, key, value, out, logsumexp, bool_mask, additive_mask, alibi_slopes, sinks;
    mfa_attention_desc_t desc;
} call;

static mfa_tensor_t packed(int32_t precision, void *data, int64_t b, int64_t h, int64_t n, int64_t d) {
    mfa_tensor_t tensor = MFA_TENSOR_INIT;
    tensor.precision = precision;
    tensor.data = data;
    const int64_t shape[4] = {b, h, n, d}, stride[4] = {h * n * d, n * d, d, 1};
    memcpy(tensor.shape, shape, sizeof shape);
    memcpy(tensor.stride, stride, sizeof stride);
    return tensor;
}

/* B = 2, H = 4, Hkv = 2, Nq = 3, Nkv = 5, D = 8, Dv = 6, with every optional operand. */
static call good(mfa_context_t context) {
    call c = {.context = context, .desc = MFA_ATTENTION_DESC_INIT};
    c.query = packed(MFA_PRECISION_FP32, memory[0], 2, 4, 3, 8);
    c.key = packed(MFA_PRECISION_FP32, memory[1], 2, 2, 5, 8);
    c.value = packed(MFA_PRECISION_FP32, memory[2], 2, 2, 5, 6);
    c.out = packed(MFA_PRECISION_FP32, memory[3], 2, 4, 3, 6);
    c.logsumexp = packed(MFA_PRECISION_FP32, memory[4], 2, 4, 3, 1);
    c.bool_mask = packed(MFA_PRECISION_BOOL, memory[5], 1, 4, 1, 5);
    c.additive_mask = packed(MFA_PRECISION_FP16, memory[6], 2, 1, 3, 1);
    c.alibi_slopes = packed(MFA_PRECISION_FP32, memory[7], 1, 4, 1, 1);
    c.sinks = packed(MFA_PRECISION_FP32, memory[8], 1, 4, 1, 1);
    c.desc.alignment = MFA_ALIGN_BOTTOM_RIGHT;
    return c;
}

static mfai_problem_t problem;

static mfa_status_t import(call *c) {
    c->desc.query = &c->query;
    c->desc.key = &c->key;
    c->desc.value = &c->value;
    c->desc.out = &c->out;
    c->desc.logsumexp = &c->logsumexp;
    c->desc.bool_mask = &c->bool_mask;
    c->desc.additive_mask = &c->additive_mask;
    c->desc.alibi_slopes = &c->alibi_slopes;
    c->desc.sinks = &c->sinks;
    return mfai_problem_import(c->context, MFAI_FORWARD, &c->desc, &problem);
}

#define REFUSED(change, status, fragment)          \
    do {                                           \
        call c = good(context);                    \
        change;                                    \
        CHECK_FAILS(import(&c), status, fragment); \
    } while (0)
#define INVALID(change, fragment) REFUSED(change, MFA_ERROR_INVALID_ARGS, fragment)

static void test_normalised(mfa_context_t context) {
    call c = good(context);
    CHECK(import(&c) == MFA_SUCCESS);
    CHECK(problem.batch == 2 && problem.heads == 4 && problem.kv_heads == 2 && problem.group == 2);
    CHECK(problem.query_count == 3 && problem.key_count == 5 && problem.head_dim == 8 && problem.value_dim == 6);
    CHECK(problem.softmax_scale == 0.353553390f && problem.offset == 2 && problem.window_left == -1 &&
          problem.window_right == -1);
    CHECK(problem.bool_mask.shape[0] == 1 && problem.bool_mask.stride[0] == 0 && problem.bool_mask.stride[2] == 0);
    CHECK(problem.additive_mask.shape[3] == 1 && problem.additive_mask.stride[3] == 0 &&
          problem.additive_mask.stride[2] == 1);
    CHECK(problem.features == (MFAI_LOGSUMEXP | MFAI_BIASES | MFAI_SINKS));

    c.desc.flags = MFA_ATTENTION_CAUSAL | MFA_ATTENTION_LITERAL_SCALE;
    c.desc.alignment = MFA_ALIGN_TOP_LEFT;
    c.desc.window_left = INT64_MAX;
    c.desc.window_right = INT64_MAX;
    c.desc.intermediate_precision = MFA_PRECISION_FP32;
    CHECK(import(&c) == MFA_SUCCESS);
    CHECK(problem.softmax_scale == 0 && problem.offset == 0 && problem.window_right == 0 && problem.window_left >= 8);
    CHECK(problem.features & MFAI_EXACT_WEIGHTS);
}

static void test_refused(mfa_context_t context) {
    INVALID(c.query.struct_size = 8, "query.struct_size is 8");
    INVALID(c.desc.struct_size = 8, "desc.struct_size is 8");
    INVALID(c.desc.flags = 64, "flags is 0x40");
    INVALID(c.query.precision = 77, "query.precision is 77");
    INVALID(c.query.precision = MFA_PRECISION_INT8, "query.precision is INT8");
    INVALID(c.query.precision = MFA_PRECISION_BOOL, "query.precision is BOOL");
    INVALID(c.key.precision = MFA_PRECISION_FP16, "key.precision is FP16");
    INVALID(c.value.precision = MFA_PRECISION_BF16, "value.precision is BF16");
    INVALID(c.logsumexp.precision = MFA_PRECISION_FP16, "logsumexp.precision is FP16");
    INVALID(c.bool_mask.precision = MFA_PRECISION_FP32, "bool_mask.precision is FP32");
    INVALID(c.alibi_slopes.precision = MFA_PRECISION_FP16, "alibi_slopes.precision");
    INVALID(c.query.shape[1] = -1, "query.shape[1] is -1");
    INVALID(c.query.shape[1] = 0, "query has 0 heads");
    INVALID(c.query.shape[3] = 0, "query has head_dim 0");
    INVALID(c.value.shape[3] = 0, "value has head_dim 0");
    INVALID(c.key.shape[1] = 3, "key has 3 heads");
    INVALID(c.key.shape[1] = 0, "key has 0 heads");
    INVALID(c.key.shape[0] = 1, "key has shape");
    INVALID(c.value.shape[2] = 4, "value has shape");
    INVALID(c.out.shape[3] = 8, "out has shape");
    INVALID(c.logsumexp.shape[2] = 4, "logsumexp has shape");
    INVALID(c.bool_mask.shape[3] = 4, "bool_mask has shape (1, 4, 1, 4), expected (2, 4, 3, 5)");
    INVALID(c.additive_mask.shape[1] = 2, "additive_mask has shape");
    INVALID(c.alibi_slopes.shape[1] = 1,
            "alibi_slopes has shape (1, 1, 1, 1), expected (2, 4, 1, 1) or 1 in the first place");
    INVALID(c.sinks.shape[1] = 1, "sinks has shape");
    INVALID(c.query.data = NULL, "query.data and query.buffer are both NULL");
    INVALID(c.query.byte_offset = 4, "query.byte_offset is 4");
    INVALID(c.query.data = (char *)memory[0] + 1, "not aligned");
    INVALID(c.query.stride[0] = INT64_MAX, "overflows 64 bits");
    INVALID(c.query.stride[0] = INT64_MIN, "overflows 64 bits");
    INVALID(c.out.stride[2] = 0, "stride 0 of dimension 2");
    INVALID(c.out.stride[2] = 5, "out: stride 5 of dimension 2");
    INVALID(c.logsumexp.stride[0] = 0, "logsumexp: stride 0");
    INVALID(c.out.data = memory[0] + 10, "out overlaps query");
    INVALID(c.logsumexp.data = memory[3], "out overlaps logsumexp");
    INVALID(c.logsumexp.data = memory[8], "logsumexp overlaps sinks");
    INVALID(c.out.data = memory[5], "out overlaps bool_mask");
    INVALID(c.desc.alignment = 3, "alignment is 3");
    INVALID(c.desc.alignment = MFA_ALIGN_NONE, "alignment is MFA_ALIGN_NONE");
    INVALID(c.desc.window_left = -2, "window_left is -2");
    INVALID(c.desc.window_right = -2, "window_right is -2");
    INVALID(c.desc.softmax_scale = (float)(0.0 / 0.0), "softmax_scale is");
    INVALID(c.desc.softcap = -1, "softcap is -1");
    INVALID(c.desc.softcap = (float)(1.0 / 0.0), "softcap is inf");
    INVALID(c.desc.intermediate_precision = 3, "intermediate_precision is 3");
    CHECK_FAILS(mfai_problem_import(context, MFAI_FORWARD, NULL, &problem), MFA_ERROR_INVALID_ARGS, "desc is NULL");
    mfa_attention_desc_t empty = MFA_ATTENTION_DESC_INIT;
    CHECK_FAILS(mfai_problem_import(context, MFAI_FORWARD, &empty, &problem), MFA_ERROR_INVALID_ARGS, "query is NULL");
}

/* Sizes and strides at the ends of 64 bits, which an empty batch or the undefined behaviour sanitizer would let through. */
static void test_extremes(mfa_context_t context) {
    const int64_t huge = INT64_C(1) << 62;
    INVALID((c.query.shape[0] = 0, c.query.shape[2] = huge), "overflows 64 bits");
    call c = good(context);
    c.query.stride[0] = -(INT64_C(1) << 61);
    CHECK(import(&c) == MFA_SUCCESS); /* two batches, 2^63 bytes apart: odd, but not wrong */
    c = good(context);
    c.query.shape[2] = c.out.shape[2] = c.logsumexp.shape[2] = c.additive_mask.shape[2] = 0;
    c.out.data = (char *)memory[3] + 1; /* an empty tensor's address is never used */
    CHECK(import(&c) == MFA_SUCCESS);
}

static void test_newer_caller(mfa_context_t context) {
    struct {
        mfa_tensor_t known;
        int64_t more;
    } newer = {.more = 0};
    call c = good(context);
    newer.known = c.query;
    newer.known.struct_size = sizeof newer;
    mfai_view_t view;
    CHECK(mfai_view_import("query", context, &newer.known, MFAI_FLOATING, &view) == MFA_SUCCESS);
    newer.more = 1;
    CHECK_FAILS(mfai_view_import("query", context, &newer.known, MFAI_FLOATING, &view), MFA_ERROR_UNSUPPORTED,
                "struct_size");
}

static void test_buffers(mfa_context_t context) {
    mfa_context_t other = NULL;
    mfa_buffer_t buffer = NULL, foreign = NULL;
    CHECK(mfa_create_context(&other) == MFA_SUCCESS);
    CHECK(mfa_create_buffer(context, 2 * 4 * 3 * 8 * 4 + 8, &buffer) == MFA_SUCCESS);
    CHECK(mfa_create_buffer(other, 4096, &foreign) == MFA_SUCCESS);
    call c = good(context);
    c.query.data = NULL;
    c.query.buffer = buffer;
    c.query.byte_offset = 8;
    CHECK(import(&c) == MFA_SUCCESS && problem.query.data == (char *)mfa_buffer_contents(buffer) + 8);
    INVALID((c.query.data = NULL, c.query.buffer = buffer, c.query.byte_offset = 12), "of a buffer of 776 bytes");
    INVALID((c.query.data = NULL, c.query.buffer = buffer, c.query.byte_offset = UINT64_MAX),
            "of a buffer of 776 bytes");
    INVALID((c.query.data = NULL, c.query.buffer = buffer, c.query.stride[3] = -1), "of a buffer of 776 bytes");
    INVALID(c.query.buffer = buffer, "are both set");
    INVALID((c.query.data = NULL, c.query.buffer = foreign), "belongs to another context");
    mfa_destroy_buffer(buffer);
    mfa_destroy_buffer(foreign);
    mfa_destroy_context(other);
}

int main(void) {
    mfa_context_t context = NULL;
    CHECK(mfa_create_context(&context) == MFA_SUCCESS);
    test_normalised(context);
    test_refused(context);
    test_extremes(context);
    test_newer_caller(context);
    test_buffers(context);
    mfa_destroy_context(context);
    return check_report();
}
