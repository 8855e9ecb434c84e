/* How long a large problem takes at its best, and a small one on the average, which is what a call costs. */
#define _POSIX_C_SOURCE 199309L
#include "wrapped.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* The seconds that each of `calls` calls took at the best of `rounds`; negative if one failed. */
static double best_of(mfa_context_t context, int rounds, int calls, int64_t heads, int64_t rows) {
    const int64_t shape[4] = {1, heads, rows, 64};
    const size_t bytes = (size_t)(heads * rows * 64) * sizeof(float);
    float *memory[4] = {malloc(bytes), malloc(bytes), malloc(bytes), malloc(bytes)};
    operand_t of[4];
    memset(of, 0, sizeof of);
    mfa_status_t status = MFA_SUCCESS;
    for (int i = 0; i < 4 && !status; ++i) {
        for (size_t j = 0; memory[i] && j < bytes / sizeof(float); ++j)
            memory[i][j] = (float)((j * (size_t)(2 * i + 5)) % 17) / 8 - 1;
        status = operand_wrap(context, memory[i], bytes, MFA_PRECISION_FP32, shape, &of[i]);
    }
    mfa_attention_desc_t desc = MFA_ATTENTION_DESC_INIT;
    desc.query = &of[0].tensor, desc.key = &of[1].tensor, desc.value = &of[2].tensor, desc.out = &of[3].tensor;
    double best = 1e30;
    for (int round = 0; round < rounds && !status; ++round) {
        const double start = seconds();
        for (int call = 0; call < calls && !status; ++call)
            status = mfa_attention_forward_desc(context, &desc);
        const double took = (seconds() - start) / calls;
        best = took < best ? took : best;
    }
    for (int i = 0; i < 4; ++i) {
        operand_release(&of[i]);
        free(memory[i]);
    }
    return status ? -1 : best;
}

int main(void) {
    if (!library_is_new_enough())
        return 1;
    mfa_context_options_t one_thread = MFA_CONTEXT_OPTIONS_INIT;
    one_thread.num_threads = 1;
    mfa_context_t context = NULL, single = NULL;
    double large = -1, small = -1;
    if (!mfa_create_context(&context) && !mfa_create_context_with_options(&one_thread, &single)) {
        large = best_of(context, 10, 1, 8, 1024);
        small = large < 0 ? -1 : best_of(single, 1, 5000, 1, 16);
    }
    if (small < 0)
        fprintf(stderr, "%s\n", mfa_last_error_message(NULL));
    else
        printf("forward 1x8x1024x64 float32: %.2f ms, %.1f GINSTRS/s\ncall 1x1x16x64 float32: %.2f us\n", 1e3 * large,
               (2.0 * 64 + 5) * 8 * 1024 * 1024 / large / 1e9, 1e6 * small);
    mfa_destroy_context(single);
    mfa_destroy_context(context);
    return small < 0;
}
