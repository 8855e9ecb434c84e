/* Every way in which a descriptor can be wrong, with what the message says. */
#include "described.h"

static call of_pass(mfa_context_t context, mfai_pass_t pass) { return good(context, pass, 0); }

#define INVALID(change, fragment) INVALID_OF(of_pass(context, MFAI_FORWARD), change, fragment)

static void test_normalised(mfa_context_t context) {
    call c = of_pass(context, MFAI_FORWARD);
    CHECK(import(&c) == MFA_SUCCESS);
    CHECK(problem.batch == 2 && problem.heads == 4 && problem.kv_heads == 2 && problem.group == 2);
    CHECK(problem.query_count == 3 && problem.key_count == 5 && problem.head_dim == 8 && problem.value_dim == 6);
    CHECK(problem.softmax_scale == 0.267261242f && problem.is_bottom_right && problem.window_left == -1 &&
          problem.window_right == -1);
    CHECK(problem.bool_mask.shape[0] == 1 && problem.bool_mask.stride[0] == 0 && problem.bool_mask.stride[2] == 0);
    CHECK(problem.additive_mask.shape[3] == 1 && problem.additive_mask.stride[3] == 0 &&
          problem.additive_mask.stride[2] == 1);
    CHECK(problem.features ==
          (MFAI_LOGSUMEXP | MFAI_BOOL_MASK | MFAI_ADDITIVE_MASK | MFAI_ALIBI | MFAI_SINKS | MFAI_QUERY_VALUE));
    c.absent[number_of("query_value")] = true;
    CHECK(import(&c) == MFA_SUCCESS && problem.softmax_scale == 0.353553390f);

    c.desc.flags = MFA_ATTENTION_CAUSAL | MFA_ATTENTION_LITERAL_SCALE;
    c.desc.alignment = MFA_ALIGN_TOP_LEFT;
    c.desc.window_left = INT64_MAX;
    c.desc.window_right = INT64_MAX;
    c.desc.intermediate_precision = MFA_PRECISION_FP32;
    CHECK(import(&c) == MFA_SUCCESS);
    CHECK(problem.softmax_scale == 0 && !problem.is_bottom_right && problem.window_right == 0 &&
          problem.window_left >= 8);
    CHECK(problem.features & MFAI_EXACT_WEIGHTS);
}

static void test_refused(mfa_context_t context) {
    INVALID(T(query).struct_size = 8, "query.struct_size is 8");
    INVALID(c.desc.struct_size = 8, "desc.struct_size is 8");
    INVALID(c.desc.flags = 64, "flags is 0x40");
    INVALID(T(query).precision = 77, "query.precision is 77");
    INVALID(T(query).precision = MFA_PRECISION_INT8, "query.precision is INT8");
    INVALID(T(query).precision = MFA_PRECISION_BOOL, "query.precision is BOOL");
    INVALID(T(key).precision = MFA_PRECISION_FP16, "key.precision is FP16");
    INVALID(T(value).precision = MFA_PRECISION_BF16, "value.precision is BF16");
    INVALID(T(logsumexp).precision = MFA_PRECISION_FP16, "logsumexp.precision is FP16");
    INVALID(T(bool_mask).precision = MFA_PRECISION_FP32, "bool_mask.precision is FP32");
    INVALID(T(alibi_slopes).precision = MFA_PRECISION_FP16, "alibi_slopes.precision");
    INVALID(T(query).shape[1] = -1, "query.shape[1] is -1");
    INVALID(T(query).shape[1] = 0, "query has 0 heads");
    INVALID(T(query).shape[3] = 0, "query has head_dim 0");
    INVALID(T(value).shape[3] = 0, "value has head_dim 0");
    INVALID(T(key).shape[1] = 3, "key has 3 heads");
    INVALID(T(key).shape[1] = 0, "key has 0 heads");
    INVALID(T(key).shape[0] = 1, "key has shape");
    INVALID(T(value).shape[2] = 4, "value has shape");
    INVALID(T(out).shape[3] = 8, "out has shape");
    INVALID(T(logsumexp).shape[2] = 4, "logsumexp has shape");
    INVALID(T(bool_mask).shape[3] = 4, "bool_mask has shape (1, 4, 1, 4), expected (2, 4, 3, 5)");
    INVALID(T(additive_mask).shape[1] = 2, "additive_mask has shape");
    INVALID(T(alibi_slopes).shape[1] = 1,
            "alibi_slopes has shape (1, 1, 1, 1), expected (2, 4, 1, 1) or 1 in the first place");
    INVALID(T(sinks).shape[1] = 1, "sinks has shape");
    INVALID(T(query).data = NULL, "query.data and query.buffer are both NULL");
    INVALID(T(query).byte_offset = 4, "query.byte_offset is 4");
    INVALID(T(query).data = (char *)DATA(query) + 1, "not aligned");
    INVALID(T(query).stride[0] = INT64_MAX, "overflows 64 bits");
    INVALID(T(query).stride[0] = INT64_MIN, "overflows 64 bits");
    INVALID(T(out).stride[2] = 0, "stride 0 of dimension 2");
    INVALID(T(out).stride[2] = 5, "out: stride 5 of dimension 2");
    INVALID(T(logsumexp).stride[0] = 0, "logsumexp: stride 0");
    INVALID(T(out).data = DATA(query) + 10, "out overlaps query");
    INVALID(T(logsumexp).data = DATA(out), "out overlaps logsumexp");
    INVALID(T(logsumexp).data = DATA(sinks), "logsumexp overlaps sinks");
    INVALID(T(out).data = DATA(bool_mask), "out overlaps bool_mask");
    INVALID(c.desc.chunk = -1, "chunk is -1");
    INVALID((c.desc.alignment = MFA_ALIGN_NONE, c.desc.chunk = 2, ABSENT(alibi_slopes) = true), "alignment is");
    INVALID(T(query_value).precision = MFA_PRECISION_FP16, "query_value.precision is FP16, expected query's, FP32");
    INVALID(c.desc.alignment = 3, "alignment is 3");
    INVALID((c.desc.alignment = MFA_ALIGN_NONE, c.desc.flags = MFA_ATTENTION_CAUSAL),
            "alignment is MFA_ALIGN_NONE, but MFA_ATTENTION_CAUSAL needs TOP_LEFT or BOTTOM_RIGHT");
    INVALID(c.desc.alignment = MFA_ALIGN_NONE, "but alibi_slopes needs TOP_LEFT");
    INVALID((c.desc.alignment = MFA_ALIGN_NONE, ABSENT(alibi_slopes) = true, c.desc.window_left = 0,
             c.desc.window_right = 0),
            "window_left is 0 and window_right is 0, and -1 is no bound");
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

/* What may be left out, and which sizes the others are held against. */
static void test_presence_and_shape(mfa_context_t context, mfai_pass_t pass) {
    call c = of_pass(context, pass);
    for (int i = 0; i < MFAI_OPERANDS; ++i) {
        const mfai_operand_t *operand = &mfai_operands[i];
        const mfai_use_t use = (mfai_use_t)operand->use[pass];
        c = of_pass(context, pass);
        if (c.absent[i])
            continue;
        c.absent[i] = true;
        /* A gradient asks for its operand. */
        for (int other = 0; other < MFAI_OPERANDS; ++other)
            c.absent[other] = c.absent[other] || (mfai_operands[other].like != NULL &&
                                                  strcmp(mfai_operands[other].like, operand->name) == 0);
        if (use == MFAI_READ || use == MFAI_WRITE)
            CHECK(import(&c) == MFA_SUCCESS && !mfai_operand_view(operand, &problem)->present);

        char text[64];
        c = of_pass(context, pass);
        c.tensors[i].shape[3] = 7;
        snprintf(text, sizeof text, "%s has shape", operand->name);
        /* Lengths of query, key and value are what the others are held against. */
        if (i > number_of("value"))
            CHECK_FAILS(import(&c), MFA_ERROR_INVALID_ARGS, text);
    }
}

static void test_gradients_want_their_operands(mfa_context_t context) {
    call c = of_pass(context, MFAI_BACKWARD);
    c.absent[number_of("additive_mask")] = true;
    CHECK_FAILS(import(&c), MFA_ERROR_INVALID_ARGS, "dbias is set, but additive_mask is NULL");
    c = of_pass(context, MFAI_BACKWARD);
    c.absent[number_of("sinks")] = true;
    CHECK_FAILS(import(&c), MFA_ERROR_INVALID_ARGS, "dsinks is set, but sinks is NULL");
    c = of_pass(context, MFAI_BACKWARD);
    pack(&T(dbias), 2, 4, 3, 5);
    CHECK_FAILS(import(&c), MFA_ERROR_INVALID_ARGS, "dbias has shape (2, 4, 3, 5), expected (2, 1, 3, 1)");
    c = of_pass(context, MFAI_BACKWARD);
    c.backward.flags = 3;
    CHECK_FAILS(import(&c), MFA_ERROR_INVALID_ARGS,
                "flags is 0x3, which has bits this library does not know (known: 0x1)");
}

/* rowsum(dout * out) is written beside `out`, and read in its place. */
static void test_delta(mfa_context_t context) {
    const mfai_operand_t *const delta = &mfai_operands[number_of("delta")];
    call c = of_pass(context, MFAI_BACKWARD);
    CHECK(import(&c) == MFA_SUCCESS && mfai_operand_use(delta, &problem) == MFAI_WRITE);
    T(delta).data = DATA(dout);
    CHECK_FAILS(import(&c), MFA_ERROR_INVALID_ARGS, "delta overlaps dout");
    ABSENT(out) = true;
    CHECK(import(&c) == MFA_SUCCESS && mfai_operand_use(delta, &problem) == MFAI_READ);
    T(delta).data = DATA(dquery);
    CHECK_FAILS(import(&c), MFA_ERROR_INVALID_ARGS, "dquery overlaps delta");
    ABSENT(delta) = true;
    CHECK_FAILS(import(&c), MFA_ERROR_INVALID_ARGS, "out is NULL, expected what the forward call wrote, or delta");
    ABSENT(out) = false;
    CHECK(import(&c) == MFA_SUCCESS && !problem.delta.present);
}

/* Read beside delta, which does not hold it. */
static void test_dlogsumexp(mfa_context_t context) {
    const mfai_operand_t *const dlogsumexp = &mfai_operands[number_of("dlogsumexp")];
    call c = of_pass(context, MFAI_BACKWARD);
    CHECK(import(&c) == MFA_SUCCESS && mfai_operand_use(dlogsumexp, &problem) == MFAI_READ);
    T(dlogsumexp).data = DATA(delta);
    CHECK_FAILS(import(&c), MFA_ERROR_INVALID_ARGS, "delta overlaps dlogsumexp");
    ABSENT(out) = true;
    CHECK(import(&c) == MFA_SUCCESS);
    T(dlogsumexp).precision = MFA_PRECISION_FP16;
    CHECK_FAILS(import(&c), MFA_ERROR_INVALID_ARGS, "dlogsumexp.precision is");
}

/* Sizes and strides at the ends of 64 bits, which an empty batch or the undefined behaviour sanitizer would let
   through. */
static void test_extremes(mfa_context_t context) {
    const int64_t huge = INT64_C(1) << 62;
    INVALID((T(query).shape[0] = 0, T(query).shape[2] = huge), "overflows 64 bits");
    call c = of_pass(context, MFAI_FORWARD);
    T(query).stride[0] = -(INT64_C(1) << 61);
    CHECK(import(&c) == MFA_SUCCESS); /* two batches, 2^63 bytes apart: odd, but not wrong */
    /* More keys than sums of lengths and bounds may have; memory is no obstacle where rows repeat. */
    c = of_pass(context, MFAI_FORWARD);
    c.absent[number_of("bool_mask")] = c.absent[number_of("additive_mask")] = true;
    for (int i = number_of("key"); i <= number_of("value"); ++i) {
        c.tensors[i].shape[0] = c.tensors[i].shape[1] = c.tensors[i].shape[3] = 1;
        c.tensors[i].shape[2] = INT64_MAX / 4 - 1;
        c.tensors[i].stride[2] = 0;
    }
    CHECK_FAILS(import(&c), MFA_ERROR_INVALID_ARGS, "key has 2305843009213693950 rows, expected at most");
    c = of_pass(context, MFAI_FORWARD);
    T(query).shape[2] = T(query_value).shape[2] = T(out).shape[2] = T(logsumexp).shape[2] = 0;
    T(additive_mask).shape[2] = 0;
    T(out).data = (char *)DATA(out) + 1; /* an empty tensor's address is never used */
    CHECK(import(&c) == MFA_SUCCESS);
}

/* What has no backward pass says so. */
static void test_forward_only(mfa_context_t context) {
    call c = of_pass(context, MFAI_BACKWARD);
    ABSENT(query_value) = false;
    CHECK_FAILS(import(&c), MFA_ERROR_INVALID_ARGS, "forward.query_value is set, expected NULL");
    c = good(context, MFAI_BACKWARD, 1 << MFAI_DESC_SCALES);
    CHECK_FAILS(import(&c), MFA_ERROR_INVALID_ARGS, "forward.scales is set, expected NULL");
    c = good(context, MFAI_BACKWARD, 1 << MFAI_DESC_APPEND);
    CHECK_FAILS(import(&c), MFA_ERROR_INVALID_ARGS, "forward.append is set, expected NULL");
}

static call scaled(mfa_context_t context, mfai_pass_t pass) { return good(context, pass, 1 << MFAI_DESC_SCALES); }

static void test_scales(mfa_context_t context) {
    test_each_operand(scaled, context, MFAI_FORWARD);
    call c = scaled(context, MFAI_FORWARD);
    CHECK(import(&c) == MFA_SUCCESS && problem.features & MFAI_SCALES && problem.key_scale.stride[0] == 2);
    pack(&T(scales.key), 1, 2, 1, 1);
    pack(&T(scales.value), 2, 1, 1, 1);
    ABSENT(scales.query) = true;
    CHECK(import(&c) == MFA_SUCCESS && problem.key_scale.stride[0] == 0 && problem.value_scale.stride[1] == 0);
    pack(&T(scales.value), 2, 4, 1, 1);
    CHECK_FAILS(import(&c), MFA_ERROR_INVALID_ARGS, "scales.value has shape (2, 4, 1, 1), expected (2, 2, 1, 1)");
    INVALID_OF(scaled(context, MFAI_FORWARD), c.scales.reserved = 1, "scales.reserved is 1");
    INVALID_OF(scaled(context, MFAI_FORWARD), c.scales.struct_size = 8, "scales.struct_size is 8");
}

static void test_newer_caller(mfa_context_t context) {
    struct {
        mfa_tensor_t known;
        int64_t more;
    } newer = {.more = 0};
    call c = of_pass(context, MFAI_FORWARD);
    newer.known = T(query);
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
    call c = of_pass(context, MFAI_FORWARD);
    T(query).data = NULL;
    T(query).buffer = buffer;
    T(query).byte_offset = 8;
    CHECK(import(&c) == MFA_SUCCESS && problem.query.data == (char *)mfa_buffer_contents(buffer) + 8);
    INVALID((T(query).data = NULL, T(query).buffer = buffer, T(query).byte_offset = 12), "of a buffer of 776 bytes");
    INVALID((T(query).data = NULL, T(query).buffer = buffer, T(query).byte_offset = UINT64_MAX),
            "of a buffer of 776 bytes");
    INVALID((T(query).data = NULL, T(query).buffer = buffer, T(query).stride[3] = -1), "of a buffer of 776 bytes");
    INVALID(T(query).buffer = buffer, "are both set");
    INVALID((T(query).data = NULL, T(query).buffer = foreign), "belongs to another context");
    mfa_destroy_buffer(buffer);
    mfa_destroy_buffer(foreign);
    mfa_destroy_context(other);
}

int main(void) {
    mfa_context_t context = NULL;
    CHECK(mfa_create_context(&context) == MFA_SUCCESS);
    test_normalised(context);
    test_refused(context);
    test_each_operand(of_pass, context, MFAI_FORWARD);
    test_each_operand(of_pass, context, MFAI_BACKWARD);
    test_presence_and_shape(context, MFAI_FORWARD);
    test_presence_and_shape(context, MFAI_BACKWARD);
    test_gradients_want_their_operands(context);
    test_delta(context);
    test_dlogsumexp(context);
    test_extremes(context);
    test_forward_only(context);
    test_scales(context);
    test_newer_caller(context);
    test_buffers(context);
    mfa_destroy_context(context);
    return check_report();
}
