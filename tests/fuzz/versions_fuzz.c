/*
 * A right call whose structs come from older and newer headers. Each has exactly the memory that its struct_size says,
 * so that AddressSanitizer sees whoever reads beyond.
 */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "problem.h"

/* The first releases of the descriptors ended here. */
enum {
    OLDEST_DESC = offsetof(mfa_attention_desc_t, dropout_p),
    OLDEST_BACKWARD = offsetof(mfa_attention_backward_desc_t, delta),
    MOST_BYTES = 65536
};

typedef struct {
    uint32_t size;
    bool has_unknown; /* a byte behind what the library knows is not zero */
} version_t;

static version_t read_version(reader_t *r, size_t known) {
    static const uint32_t sizes[] = {0, 3, 4, 8, MOST_BYTES - 1, MOST_BYTES, MOST_BYTES + 1, UINT32_MAX};
    const int kind = read_below(r, 8);
    version_t v = {(uint32_t)known, false};
    if (kind == 7)
        v.size = READ_PICK(r, sizes);
    else if (kind == 6)
        v.size = (uint32_t)read_below(r, (int)(known < 256 ? known : 256));
    else if (kind >= 3)
        v.size = (uint32_t)(known + (size_t)read_below(r, 64));
    v.has_unknown = v.size > known && v.size <= MOST_BYTES && read_chance(r, 2);
    return v;
}

/* The struct in that version; the caller's to free. */
static void *in_version(const void *from, size_t known, version_t v, reader_t *r) {
    const size_t bytes = v.size < 4 || v.size > MOST_BYTES ? 4 : v.size;
    unsigned char *copy = calloc(1, bytes);
    memcpy(copy, from, bytes < known ? bytes : known);
    memcpy(copy, &v.size, sizeof v.size);
    if (v.has_unknown)
        copy[known + read_bits(r, 2) % (v.size - known)] = (unsigned char)(1 + read_below(r, 255));
    return copy;
}

/* What the library must say of a struct that it reads. */
static mfa_status_t verdict(version_t v, size_t least, mfa_status_t otherwise) {
    if (v.size < least || v.size > MOST_BYTES)
        return MFA_ERROR_INVALID_ARGS;
    return v.has_unknown ? MFA_ERROR_UNSUPPORTED : otherwise;
}

static mfa_status_t call_by_version(problem_t *p, reader_t *r, bool backward, mfa_context_t context,
                                    mfa_status_t *expected) {
    const version_t tensor = read_version(r, sizeof(mfa_tensor_t)),
                    desc = read_version(r, sizeof(mfa_attention_desc_t)),
                    outer = read_version(r, sizeof(mfa_attention_backward_desc_t));
    int operand = read_below(r, OPERANDS);
    while (!p->operands[operand].present || (!backward && operand >= DOUT))
        operand = (operand + 1) % OPERANDS;
    *expected = verdict(desc, OLDEST_DESC, verdict(tensor, sizeof(mfa_tensor_t), MFA_SUCCESS));
    if (backward)
        *expected = verdict(outer, OLDEST_BACKWARD, *expected);

    void *new_tensor = in_version(&p->operands[operand].tensor, sizeof(mfa_tensor_t), tensor, r);
    *problem_slot(p, operand) = new_tensor;
    void *new_desc = in_version(&p->forward, sizeof p->forward, desc, r);
    p->backward.forward = new_desc;
    void *new_outer = in_version(&p->backward, sizeof p->backward, outer, r);
    forget_message();
    const mfa_status_t status = backward ? checked("backward", mfa_attention_backward_desc(context, new_outer))
                                         : checked("forward", mfa_attention_forward_desc(context, new_desc));
    *problem_slot(p, operand) = &p->operands[operand].tensor;
    p->backward.forward = &p->forward;
    free(new_tensor), free(new_desc), free(new_outer);
    return planted("take any version") ? MFA_SUCCESS : status;
}

static void compare(problem_t *p, reader_t *r, bool backward) {
    mfa_context_t context = context_of(0, 1);
    const uint64_t written = backward ? BACKWARD_WRITES : FORWARD_WRITES;
    unsigned char *snapshots[OPERANDS] = {NULL};
    problem_before(p, written);
    EXPECT((backward ? mfa_attention_backward_desc(context, &p->backward)
                     : mfa_attention_forward_desc(context, &p->forward)) == MFA_SUCCESS,
           "a right call fails");
    for (int i = 0; i < OPERANDS; ++i)
        if (p->operands[i].present && (written >> i & 1))
            snapshots[i] = problem_snapshot(p, i);
    problem_before(p, written);
    mfa_status_t expected;
    const mfa_status_t status = call_by_version(p, r, backward, context, &expected);
    EXPECT(status == expected, "status %d, expected %d", status, expected);
    problem_expect_unchanged(p, status == MFA_SUCCESS ? written : 0, "a call of another version");
    for (int i = 0; i < OPERANDS; ++i) {
        EXPECT(status != MFA_SUCCESS || snapshots[i] == NULL || p->operands[i].bytes == 0 ||
                   memcmp(snapshots[i], p->operands[i].memory, p->operands[i].bytes) == 0,
               "%s has other bits with structs of another version", operand_names[i]);
        free(snapshots[i]);
    }
}

/* A plan is written as far as the caller's struct goes. */
static void plan_by_version(const problem_t *p, reader_t *r) {
    const version_t v = read_version(r, sizeof(mfa_plan_t));
    const mfa_plan_t filled = MFA_PLAN_INIT;
    unsigned char *plan = in_version(&filled, sizeof filled, v, r);
    unsigned char before[64] = {0};
    const size_t behind = v.size > sizeof filled && v.size <= MOST_BYTES ? v.size - sizeof filled : 0;
    memcpy(before, plan + (behind > 0 ? sizeof filled : 0), behind < sizeof before ? behind : 0);
    forget_message();
    const mfa_status_t status =
        checked("plan", mfa_attention_forward_plan(context_of(0, 1), &p->forward, (mfa_plan_t *)plan));
    const bool known = v.size >= sizeof filled && v.size <= MOST_BYTES;
    EXPECT(status == (known ? MFA_SUCCESS : MFA_ERROR_INVALID_ARGS), "a plan of %u bytes gave status %d", v.size,
           status);
    EXPECT(behind >= sizeof before || memcmp(before, plan + (behind > 0 ? sizeof filled : 0), behind) == 0,
           "a plan is written beyond what the library knows");
    free(plan);
}

/* The same for the struct that makes contexts. */
static void options_by_version(reader_t *r) {
    const version_t v = read_version(r, sizeof(mfa_context_options_t));
    mfa_context_options_t options = MFA_CONTEXT_OPTIONS_INIT;
    options.backend = MFA_BACKEND_CPU;
    void *given = in_version(&options, sizeof options, v, r);
    mfa_context_t context = NULL;
    forget_message();
    const mfa_status_t status = checked("create_context", mfa_create_context_with_options(given, &context));
    EXPECT(status == verdict(v, sizeof options, MFA_SUCCESS), "options of %u bytes gave status %d", v.size, status);
    mfa_destroy_context(context);
    free(given);
}

static mfa_tensor_t rows_of(int32_t precision, void *data, int64_t rows, int64_t columns) {
    mfa_tensor_t t = MFA_TENSOR_INIT;
    t.precision = precision;
    t.data = data;
    const int64_t shape[4] = {1, 1, rows, columns}, stride[4] = {0, 0, columns, 1};
    memcpy(t.shape, shape, sizeof shape);
    memcpy(t.stride, stride, sizeof stride);
    return t;
}

/* The structs that say what codes stand for: in a call that makes some, and in one that reads them. */
static void quantise_by_version(reader_t *r) {
    enum { ROWS = 3, COLUMNS = 4 };
    float numbers[ROWS * COLUMNS], scales[ROWS] = {0}, out[ROWS * COLUMNS];
    int8_t codes[ROWS * COLUMNS] = {0};
    for (int i = 0; i < ROWS * COLUMNS; ++i)
        numbers[i] = (float)(i - 5);
    const mfa_tensor_t input = rows_of(MFA_PRECISION_FP32, numbers, ROWS, COLUMNS);
    const mfa_tensor_t result = rows_of(MFA_PRECISION_FP32, out, ROWS, COLUMNS);
    const mfa_tensor_t stored = rows_of(MFA_PRECISION_INT8, codes, ROWS, COLUMNS);
    const mfa_tensor_t by_row = rows_of(MFA_PRECISION_FP32, scales, ROWS, 1);
    mfa_quantization_t quantization = MFA_QUANTIZATION_INIT;
    quantization.rows = 1, quantization.scales = &by_row;
    mfa_quantize_desc_t desc = MFA_QUANTIZE_DESC_INIT;
    desc.input = &input, desc.codes = &stored;
    const version_t inner = read_version(r, sizeof quantization), outer = read_version(r, sizeof desc);
    void *given = in_version(&quantization, sizeof quantization, inner, r);
    desc.quantization = given;
    void *given_desc = in_version(&desc, sizeof desc, outer, r);
    forget_message();
    const mfa_status_t status = checked("quantize", mfa_quantize(context_of(0, 1), given_desc));
    const mfa_status_t expected = verdict(inner, sizeof quantization, MFA_SUCCESS);
    EXPECT(status == verdict(outer, sizeof desc, expected), "quantisation of %u and %u bytes gave status %d",
           outer.size, inner.size, status);
    EXPECT((status == MFA_SUCCESS) == (codes[ROWS * COLUMNS - 1] == 127), "codes are not what the status says");
    for (int i = 0; i < ROWS; ++i)
        scales[i] = 0.5f;
    mfa_attention_desc_t forward = MFA_ATTENTION_DESC_INIT;
    forward.query = forward.value = &input, forward.key = &stored, forward.out = &result;
    forward.key_quantization = given;
    forget_message();
    const mfa_status_t ran = checked("forward", mfa_attention_forward_desc(context_of(0, 1), &forward));
    EXPECT(ran == expected, "codes of %u bytes gave status %d", inner.size, ran);
    free(given), free(given_desc);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    reader_t all = {data, data + size};
    uint8_t version_bytes[24] = {0};
    for (size_t i = 0; i < sizeof version_bytes; ++i)
        version_bytes[i] = (uint8_t)read_bits(&all, 1);
    reader_t r = {version_bytes, version_bytes + sizeof version_bytes};
    problem_t problem;
    problem_read(&all, 1 << 12, false, &problem);
    /* What the oldest descriptor cannot say. */
    problem.forward.dropout_p = 0;
    problem.forward.chunk = 0;
    problem.forward.sequences = NULL;
    problem.forward.pages = NULL;
    problem.forward.blocks = NULL;
    for (int i = 0; i < OPERANDS; ++i) {
        problem.operands[i].in_buffer = false;
        problem.operands[i].present &= i < QUERY_STARTS;
    }
    const bool backward = problem.has_backward && read_below(&r, 2) == 0;
    if (backward)
        EXPECT(mfa_attention_forward_desc(context_of(0, 1), &problem.forward) == MFA_SUCCESS, "a right call fails");
    compare(&problem, &r, backward);
    plan_by_version(&problem, &r);
    options_by_version(&r);
    quantise_by_version(&all);
    problem_free(&problem);
    return 0;
}
