/* What the machine can do at best: multiply-add rates of the registers, and the rate at which memory is read. Each
   kernel carries as many independent accumulators as its registers hold, so that the pipes and not their latency set
   the pace. */
#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* HWCAP bits */
#endif
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#if defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif
#endif

enum { BURST = 20000 }; /* iterations between two looks at the clock, some 100 microseconds */

/* Keeps the compiler from dropping the sums. */
static volatile float sink;
static volatile float seed = 0.25f;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* Accumulators start different, or the compiler would compute one of them for all. */
#define BURST_KERNEL(NAME, TARGET, VECTOR, COUNT, SPLAT, STEP)                                        \
    TARGET static void NAME(void) {                                                                   \
        const VECTOR factor = SPLAT(seed);                                                            \
        VECTOR sums[COUNT];                                                                           \
        _Pragma("GCC unroll 32") for (int i = 0; i < COUNT; ++i) sums[i] = SPLAT(seed * (float)i);    \
        for (int iteration = 0; iteration < BURST; ++iteration) {                                     \
            _Pragma("GCC unroll 32") for (int i = 0; i < COUNT; ++i) sums[i] = STEP(sums[i], factor); \
        }                                                                                             \
        float first, total = 0;                                                                       \
        _Pragma("GCC unroll 32") for (int i = 0; i < COUNT; ++i) {                                    \
            memcpy(&first, &sums[i], sizeof first);                                                   \
            total += first;                                                                           \
        }                                                                                             \
        sink = total;                                                                                 \
    }

typedef float portable_t __attribute__((vector_size(16)));
#define PORTABLE_SPLAT(x) ((portable_t){x, x, x, x})
#define PORTABLE_STEP(sum, x) ((sum) * (x) + (x))
BURST_KERNEL(multiply_add, , portable_t, 12, PORTABLE_SPLAT, PORTABLE_STEP)
static bool always(void) { return true; }

#if defined(__x86_64__)

#define BF16_SPLAT(x) _mm512_set1_ps(x) /* any bits will do as pairs of bfloat16 */
#define FMA_256(sum, x) _mm256_fmadd_ps(x, x, sum)
#define FMA_512(sum, x) _mm512_fmadd_ps(x, x, sum)
#define DOT_512(sum, x) _mm512_dpbf16_ps(sum, (__m512bh)(x), (__m512bh)(x))
BURST_KERNEL(fma_avx2, __attribute__((target("avx2,fma"))), __m256, 12, _mm256_set1_ps, FMA_256)
BURST_KERNEL(fma_avx512, __attribute__((target("avx512f,avx512vl"))), __m512, 24, _mm512_set1_ps, FMA_512)
BURST_KERNEL(bf16_avx512, __attribute__((target("avx512f,avx512vl,avx512bf16"))), __m512, 24, BF16_SPLAT, DOT_512)

static bool has_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
static bool has_avx512(void) { return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl"); }
static bool has_avx512bf16(void) { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }

#elif defined(__aarch64__)

#define FMA_128(sum, x) vfmaq_f32(sum, x, x)
#define DOT_128(sum, x) vbfmmlaq_f32(sum, vreinterpretq_bf16_f32(x), vreinterpretq_bf16_f32(x))
BURST_KERNEL(fma_neon, , float32x4_t, 24, vdupq_n_f32, FMA_128)
BURST_KERNEL(bf16_neon, __attribute__((target("arch=armv8.2-a+bf16"))), float32x4_t, 24, vdupq_n_f32, DOT_128)

static bool has_neon_bf16(void) {
#if defined(__linux__)
    return getauxval(AT_HWCAP2) & HWCAP2_BF16;
#elif defined(__APPLE__)
    int has = 0;
    size_t size = sizeof has;
    return sysctlbyname("hw.optional.arm.FEAT_BF16", &has, &size, NULL, 0) == 0 && has;
#else
    return false;
#endif
}

#endif

typedef struct {
    const char *name;
    bool (*present)(void);
    void (*burst)(void);
    double flops_per_burst;
} kernel_t;

static const kernel_t kernels[] = {
#if defined(__x86_64__)
    {"avx512 vdpbf16ps", has_avx512bf16, bf16_avx512, BURST * 24.0 * 32 * 2},
    {"avx512 fma", has_avx512, fma_avx512, BURST * 24.0 * 16 * 2},
    {"avx2 fma", has_avx2, fma_avx2, BURST * 12.0 * 8 * 2},
#elif defined(__aarch64__)
    {"neon bfmmla", has_neon_bf16, bf16_neon, BURST * 24.0 * 16 * 2},
    {"neon fma", always, fma_neon, BURST * 24.0 * 4 * 2},
#endif
    {"portable multiply-add", always, multiply_add, BURST * 12.0 * 4 * 2},
    {NULL, NULL, NULL, 0},
};

static const kernel_t *find(const char *name) {
    const kernel_t *kernel = kernels;
    while (kernel->name && strcmp(kernel->name, name) != 0)
        ++kernel;
    return kernel->name && kernel->present() ? kernel : NULL;
}

typedef struct {
    pthread_t thread;
    atomic_int *waiting; /* all threads start at once */
    const kernel_t *kernel;
    double seconds;
    const char *memory;
    size_t bytes;
    double begin, end, rate;
} worker_t;

static void start_together(worker_t *worker) {
    atomic_fetch_sub(worker->waiting, 1);
    while (atomic_load(worker->waiting) > 0)
        ;
    worker->begin = now();
}

static void *compute(void *argument) {
    worker_t *worker = argument;
    double bursts = 0;
    start_together(worker);
    do {
        worker->kernel->burst();
        ++bursts;
        worker->end = now();
    } while (worker->end < worker->begin + worker->seconds);
    worker->rate = bursts * worker->kernel->flops_per_burst / (worker->end - worker->begin);
    return NULL;
}

/* Several streams, as one alone leaves the prefetchers idle at the ends of pages. The vectors are of a width that every
   processor has: wider ones would not make memory faster. */
static void *read_memory(void *argument) {
    enum { STREAMS = 2, LINE = 4 };
    typedef uint64_t vector_t __attribute__((vector_size(16)));
    worker_t *worker = argument;
    const size_t lines = worker->bytes / sizeof(vector_t) / LINE / STREAMS;
    const vector_t *memory = (const vector_t *)worker->memory;
    vector_t sums[LINE] = {{0}};
    start_together(worker);
    for (size_t line = 0; line < lines; ++line) {
        _Pragma("GCC unroll 8") for (size_t i = 0; i < STREAMS * LINE; ++i) sums[i % LINE] +=
            memory[(i / LINE * lines + line) * LINE + i % LINE];
    }
    worker->end = now();
    sink = (float)(sums[0] + sums[1] + sums[2] + sums[3])[0];
    return NULL;
}

/* Runs `work` on every worker at once. False where a thread cannot be had. */
static bool run(worker_t *workers, int count, void *(*work)(void *)) {
    atomic_int waiting = count;
    int started = 0;
    for (; started < count; ++started) {
        workers[started].waiting = &waiting;
        if (pthread_create(&workers[started].thread, NULL, work, &workers[started]) != 0)
            break;
    }
    atomic_fetch_sub(&waiting, count - started); /* so that those that did start also end */
    for (int i = 0; i < started; ++i)
        pthread_join(workers[i].thread, NULL);
    return started == count;
}

bool bench_has(const char *name) { return find(name) != NULL; }

/* Floating-point operations per second of the kernel `name` on that many threads; negative on failure. */
double bench_compute(const char *name, int threads, double seconds) {
    const kernel_t *kernel = find(name);
    worker_t *workers = calloc((size_t)threads, sizeof *workers);
    double rate = -1;
    if (kernel && workers) {
        for (int i = 0; i < threads; ++i)
            workers[i].kernel = kernel, workers[i].seconds = seconds;
        if (run(workers, threads, compute)) {
            rate = 0;
            for (int i = 0; i < threads; ++i)
                rate += workers[i].rate;
        }
    }
    free(workers);
    return rate;
}

/* Bytes per second at which that many threads together read `memory`, aligned to 64 bytes; negative on failure. */
double bench_read(const void *memory, size_t bytes, int threads) {
    worker_t *workers = calloc((size_t)threads, sizeof *workers);
    const size_t share = bytes / (size_t)threads / 4096 * 4096;
    double rate = -1;
    if (workers) {
        for (int i = 0; i < threads; ++i)
            workers[i].memory = (const char *)memory + (size_t)i * share, workers[i].bytes = share;
        if (run(workers, threads, read_memory)) {
            double begin = workers[0].begin, end = workers[0].end;
            for (int i = 1; i < threads; ++i) {
                begin = fmin(begin, workers[i].begin);
                end = fmax(end, workers[i].end);
            }
            rate = (double)(share * (size_t)threads) / (end - begin);
        }
    }
    free(workers);
    return rate;
}
