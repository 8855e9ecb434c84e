/* Results have the same bits whatever the floating-point mode of the caller is, or was when the pool was made, and for
   any number of threads; and the caller's mode comes back, flags included. */
#define _GNU_SOURCE
#include <fenv.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "check.h"
#include "tensors.h"

enum { SHAPES = 2, PRECISIONS = 3, OUTPUTS = 5, DIM = 24 };

/* The second has few rows and many keys, which are split, and whose parts are combined. */
static const int64_t heads_of[SHAPES] = {4, 1}, queries_of[SHAPES] = {40, 2}, keys_of[SHAPES] = {70, 1030};

typedef struct {
    mfa_tensor_t q, k, v, dout, sinks, written[OUTPUTS]; /* out, logsumexp, dq, dk, dv */
    void *expected[OUTPUTS];
} problem_t;

static problem_t problems[SHAPES][PRECISIONS];

static size_t bytes_of(const mfa_tensor_t *tensor) {
    return (size_t)(tensor->shape[1] * tensor->stride[1]) * (tensor->precision == MFA_PRECISION_FP32 ? 4 : 2);
}

/* Every third number is so small that it, or what it is multiplied with, is denormal. */
static mfa_tensor_t numbers(int32_t precision, int64_t heads, int64_t rows, int64_t columns) {
    mfa_tensor_t tensor = random_tensor(precision, heads, rows, columns);
    const float tiny = precision == MFA_PRECISION_FP16 ? 0x1p-20f : 0x1p-130f;
    for (int64_t i = 0; i < heads * rows * columns; i += 3)
        store(precision, tensor.data, i, load(precision, tensor.data, i) * tiny);
    return tensor;
}

static void make(problem_t *p, int shape, int32_t precision) {
    const int64_t h = heads_of[shape], n = queries_of[shape], keys = keys_of[shape];
    p->q = numbers(precision, h, n, DIM);
    p->k = numbers(precision, h, keys, DIM);
    p->v = numbers(precision, h, keys, DIM);
    p->dout = numbers(precision, h, n, DIM);
    p->sinks = numbers(MFA_PRECISION_FP32, 1, h, 1);
    p->sinks.shape[1] = h;
    p->sinks.shape[2] = 1;
    p->sinks.stride[1] = 1;
    p->written[0] = numbers(precision, h, n, DIM);
    p->written[1] = numbers(MFA_PRECISION_FP32, h, n, 1);
    p->written[2] = numbers(precision, h, n, DIM);
    p->written[3] = numbers(precision, h, keys, DIM);
    p->written[4] = numbers(precision, h, keys, DIM);
}

static mfa_status_t call(mfa_context_t context, const problem_t *p) {
    mfa_attention_desc_t forward = MFA_ATTENTION_DESC_INIT;
    forward.query = &p->q;
    forward.key = &p->k;
    forward.value = &p->v;
    forward.sinks = &p->sinks;
    forward.out = &p->written[0];
    forward.logsumexp = &p->written[1];
    forward.dropout_p = 0.3f;
    mfa_status_t status = mfa_attention_forward_desc(context, &forward);
    if (status != MFA_SUCCESS)
        return status;
    mfa_attention_backward_desc_t backward = MFA_ATTENTION_BACKWARD_DESC_INIT;
    backward.forward = &forward;
    backward.dout = &p->dout;
    backward.dquery = &p->written[2];
    backward.dkey = &p->written[3];
    backward.dvalue = &p->written[4];
    return mfa_attention_backward_desc(context, &backward);
}

static void to_nearest(void) {}
static void upward(void) { fesetround(FE_UPWARD); }
static void downward(void) { fesetround(FE_DOWNWARD); }
static void to_zero(void) { fesetround(FE_TOWARDZERO); }

static void flush(void) {
#if defined(__x86_64__)
    _mm_setcsr(_mm_getcsr() | 0x8040);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)1 << 24));
#endif
}

static void trap(void) {
#if defined(__GLIBC__)
    feenableexcept(FE_ALL_EXCEPT);
#endif
}

static uint64_t control(void) {
    uint64_t word = 0;
#if defined(__x86_64__)
    word = _mm_getcsr();
#elif defined(__aarch64__)
    __asm__ volatile("mrs %0, fpcr" : "=r"(word));
#endif
    return word;
}

static void (*const modes[])(void) = {to_nearest, upward, downward, to_zero, flush, trap};
enum { MODES = sizeof modes / sizeof *modes };

/* Nothing here may compute in the caller's mode, which may trap. */
static void check_bits(mfa_context_t context, void (*mode)(void), int flags) {
    for (int s = 0; s < SHAPES; ++s)
        for (int p = 0; p < PRECISIONS; ++p) {
            const problem_t *problem = &problems[s][p];
            fenv_t before;
            fegetenv(&before);
            feclearexcept(FE_ALL_EXCEPT);
            feraiseexcept(flags);
            mode();
            const uint64_t word = control();
            const int rounding = fegetround();
            const mfa_status_t status = call(context, problem);
            const bool kept = control() == word && fegetround() == rounding && fetestexcept(FE_ALL_EXCEPT) == flags;
            fesetenv(&before);
            CHECK(status == MFA_SUCCESS);
            CHECK(kept);
            for (int i = 0; i < OUTPUTS; ++i)
                CHECK(memcmp(problem->written[i].data, problem->expected[i], bytes_of(&problem->written[i])) == 0);
        }
}

static mfa_context_t open_context(int32_t isa, int32_t threads) {
    mfa_context_options_t options = MFA_CONTEXT_OPTIONS_INIT;
    options.backend = MFA_BACKEND_CPU;
    options.cpu_isa = isa;
    options.num_threads = threads;
    mfa_context_t context = NULL;
    return mfa_create_context_with_options(&options, &context) == MFA_SUCCESS ? context : NULL;
}

/* In a process whose pool is made in this mode; then in others. */
static void check_pool_of(int32_t isa, void (*first)(void)) {
    mfa_context_t narrow = open_context(isa, 1), wide = open_context(isa, 4);
    check_bits(wide, first, 0);
    check_bits(wide, to_nearest, FE_DIVBYZERO | FE_INEXACT);
    check_bits(wide, first == upward ? flush : upward, FE_DIVBYZERO | FE_INEXACT);
    check_bits(narrow, first, FE_DIVBYZERO | FE_INEXACT);
    mfa_destroy_context(narrow);
    mfa_destroy_context(wide);
}

static void check_isa(int32_t isa) {
    mfa_context_t context = open_context(isa, 1);
    if (context == NULL)
        return; /* not here */
    for (int s = 0; s < SHAPES; ++s)
        for (int p = 0; p < PRECISIONS; ++p) {
            problem_t *problem = &problems[s][p];
            CHECK(call(context, problem) == MFA_SUCCESS);
            for (int i = 0; i < OUTPUTS; ++i)
                memcpy(problem->expected[i], problem->written[i].data, bytes_of(&problem->written[i]));
        }
    mfa_destroy_context(context);
    for (int m = 0; m < MODES; ++m) {
        const pid_t child = fork();
        if (child == 0) {
            check_pool_of(isa, modes[m]);
            _exit(checks_failed != 0);
        }
        int status = -1;
        CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
}

int main(void) {
    for (int s = 0; s < SHAPES; ++s)
        for (int p = 0; p < PRECISIONS; ++p) {
            make(&problems[s][p], s, p);
            for (int i = 0; i < OUTPUTS; ++i)
                problems[s][p].expected[i] = malloc(bytes_of(&problems[s][p].written[i]));
        }
    for (int32_t isa = MFA_CPU_ISA_SCALAR; isa <= MFA_CPU_ISA_NEON; ++isa)
        check_isa(isa);
    for (int s = 0; s < SHAPES; ++s)
        for (int p = 0; p < PRECISIONS; ++p) {
            problem_t *problem = &problems[s][p];
            free(problem->q.data), free(problem->k.data), free(problem->v.data), free(problem->dout.data);
            free(problem->sinks.data);
            for (int i = 0; i < OUTPUTS; ++i)
                free(problem->written[i].data), free(problem->expected[i]);
        }
    return check_report();
}
