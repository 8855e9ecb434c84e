/*
 * The flat calls from Objective-C, or from C: nothing here needs more than C99.
 *
 * Runs causal attention over two heads, compares it with the formula written out, and fails if they differ.
 */
#include <math.h>
#include <mfa.h>
#include <stdio.h>

enum {
    SEQUENCE = 5,
    HEADS = 2,
    HEAD_DIM = 8,
    ELEMENTS = SEQUENCE * HEADS * HEAD_DIM,
    BYTES = ELEMENTS * sizeof(float)
};

/* Element `column` of row `row` in a packed [sequence, heads, head_dim] operand. */
static size_t at(int row, int head, int column) { return (size_t)((row * HEADS + head) * HEAD_DIM + column); }

static void expected_row(const float *q, const float *k, const float *v, int row, int head, float *out) {
    double weights[SEQUENCE], total = 0, sum[HEAD_DIM] = {0};
    for (int j = 0; j <= row; ++j) {
        double dot = 0;
        for (int d = 0; d < HEAD_DIM; ++d)
            dot += (double)q[at(row, head, d)] * k[at(j, head, d)];
        total += weights[j] = exp(dot / sqrt(HEAD_DIM));
    }
    for (int j = 0; j <= row; ++j)
        for (int d = 0; d < HEAD_DIM; ++d)
            sum[d] += weights[j] / total * v[at(j, head, d)];
    for (int d = 0; d < HEAD_DIM; ++d)
        out[d] = (float)sum[d];
}

static float largest_difference(const float *q, const float *k, const float *v, const float *out) {
    float largest = 0, expected[HEAD_DIM];
    for (int row = 0; row < SEQUENCE; ++row)
        for (int head = 0; head < HEADS; ++head) {
            expected_row(q, k, v, row, head, expected);
            for (int d = 0; d < HEAD_DIM; ++d)
                largest = fmaxf(largest, fabsf(out[at(row, head, d)] - expected[d]));
        }
    return largest;
}

static int run(mfa_context_t context, mfa_buffer_t buffers[4]) {
    for (int operand = 0; operand < 4; ++operand)
        if (mfa_create_buffer(context, BYTES, &buffers[operand]) != MFA_SUCCESS)
            return 1;
    float *q = mfa_buffer_contents(buffers[0]), *k = mfa_buffer_contents(buffers[1]);
    float *v = mfa_buffer_contents(buffers[2]), *out = mfa_buffer_contents(buffers[3]);
    for (int i = 0; i < ELEMENTS; ++i) {
        q[i] = sinf(0.7f * (float)i);
        k[i] = cosf(1.3f * (float)i);
        v[i] = sinf(0.3f * (float)i + 1.0f);
    }
    if (mfa_attention_forward(context, buffers[0], buffers[1], buffers[2], buffers[3], 1, SEQUENCE, SEQUENCE, HEADS,
                              HEAD_DIM, 1.0f / sqrtf(HEAD_DIM), true, MFA_PRECISION_FP32, MFA_PRECISION_FP32,
                              MFA_PRECISION_FP32, false, false, false, false) != MFA_SUCCESS)
        return 1;
    float difference = largest_difference(q, k, v, out);
    printf("largest difference from the formula: %.1e\n", difference);
    return !(difference < 1e-6f);
}

int main(void) {
    mfa_context_t context = NULL;
    mfa_buffer_t buffers[4] = {NULL, NULL, NULL, NULL};
    int failed = mfa_create_context(&context) != MFA_SUCCESS || run(context, buffers);
    if (failed)
        fprintf(stderr, "failed: %s\n", mfa_last_error_message(context));
    for (int operand = 0; operand < 4; ++operand)
        mfa_destroy_buffer(buffers[operand]);
    mfa_destroy_context(context);
    return failed;
}
