/* Threads that share one context: results, error messages and latencies stay their own. */
#include <pthread.h>

#include "check.h"
#include "mfa.h"
#include "naive.h"

enum { THREADS = 4, ROUNDS = 20, N = 150, D = 16 };

typedef struct {
    mfa_context_t context;
    unsigned seed;
    int wrong;
} worker_state;

static void *work(void *argument) {
    worker_state *state = argument;
    float q[N * D], k[N * D], v[N * D], out[N * D], expected[N * D], logsumexp[N];
    for (int i = 0; i < N * D; ++i) {
        q[i] = (float)((i * 7 + state->seed) % 13) / 6 - 1;
        k[i] = (float)((i * 5 + state->seed) % 17) / 8 - 1;
        v[i] = (float)((i * 3 + state->seed) % 19) / 9 - 1;
    }
    naive_attention(q, k, v, 1, N, N, D, 0.25, true, expected, logsumexp);
    for (int round = 0; round < ROUNDS; ++round) {
        mfa_buffer_t buffers[4];
        void *memory[4] = {q, k, v, out};
        for (int i = 0; i < 4; ++i)
            state->wrong += mfa_buffer_from_ptr(state->context, memory[i], sizeof q, &buffers[i]) != MFA_SUCCESS;
        state->wrong += mfa_attention_forward(state->context, buffers[0], buffers[1], buffers[2], buffers[3], 1, N, N,
                                              1, D, 0.25f, true, 2, 2, 2, 0, 0, 0, 0) != MFA_SUCCESS;
        state->wrong += largest_difference(out, expected, N * D) > 1e-5 || mfa_get_gpu_latency(state->context) <= 0;
        mfa_buffer_t none = NULL;
        char wanted[64];
        snprintf(wanted, sizeof wanted, "size_bytes is %u", state->seed);
        state->wrong += mfa_buffer_from_ptr(state->context, NULL, state->seed, &none) != MFA_ERROR_INVALID_ARGS;
        state->wrong += strstr(mfa_last_error_message(state->context), wanted) == NULL;
        if (round % 5 == 0)
            mfa_context_trim(state->context);
        for (int i = 0; i < 4; ++i)
            mfa_destroy_buffer(buffers[i]);
    }
    return NULL;
}

int main(void) {
    mfa_context_options_t options = MFA_CONTEXT_OPTIONS_INIT;
    options.backend = MFA_BACKEND_CPU;
    options.num_threads = 3;
    mfa_context_t context = NULL;
    CHECK(mfa_create_context_with_options(&options, &context) == MFA_SUCCESS);
    pthread_t threads[THREADS];
    worker_state states[THREADS];
    for (unsigned i = 0; i < THREADS; ++i) {
        states[i] = (worker_state){context, i + 1, 0};
        CHECK(pthread_create(&threads[i], NULL, work, &states[i]) == 0);
    }
    for (int i = 0; i < THREADS; ++i) {
        pthread_join(threads[i], NULL);
        CHECK(states[i].wrong == 0);
    }
    mfa_destroy_context(context);
    return check_report();
}
