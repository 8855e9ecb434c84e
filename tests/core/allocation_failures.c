/*
 * Calls every function of mfa.h in a thread of its own, as the first that this thread makes, with its n-th allocation
 * failing, for each n until none fails; alone, and with all that follow it. The library is dlopened, as Python does. A
 * call succeeds or says that there is no memory; it writes its outputs whole or not at all; it does not end the process
 * and loses nothing.
 *
 * usage: allocation_failures LIBRARY; prints the names of the functions called, and how many allocations failed
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mfa.h"

/* ---------------------------------------------------------------------------------------------------- the allocator */

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *memory, size_t size);
void *__libc_memalign(size_t alignment, size_t size);
void __libc_free(void *memory);

static long living;            /* atomic: allocations not freed */
static __thread bool armed;    /* in this thread */
static __thread bool for_good; /* after the first failure all others fail too */
static __thread int countdown, failures;

static bool fails(void) {
    if (!armed || (--countdown >= 0) || (failures > 0 && !for_good))
        return false;
    ++failures;
    errno = ENOMEM;
    return true;
}

static void *counted(void *memory) {
    __atomic_add_fetch(&living, memory != NULL, __ATOMIC_RELAXED);
    return memory;
}

void *malloc(size_t size) { return fails() ? NULL : counted(__libc_malloc(size)); }
void *calloc(size_t count, size_t size) { return fails() ? NULL : counted(__libc_calloc(count, size)); }
void *memalign(size_t alignment, size_t size) { return fails() ? NULL : counted(__libc_memalign(alignment, size)); }
void *aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }

int posix_memalign(void **memory, size_t alignment, size_t size) {
    void *made = memalign(alignment, size);
    if (made == NULL)
        return ENOMEM;
    *memory = made;
    return 0;
}

void *realloc(void *memory, size_t size) {
    if (memory == NULL)
        return malloc(size);
    return fails() ? NULL : __libc_realloc(memory, size);
}

void free(void *memory) {
    __atomic_sub_fetch(&living, memory != NULL, __ATOMIC_RELAXED);
    __libc_free(memory);
}

/* ------------------------------------------------------------------------------------------------------ the library */

static void *library;

/* A function of the library, by its name. */
#define F(name) ((__typeof__(&name))dlsym(library, #name))

enum { HEADS = 4, QUERIES = 40, KEYS = 70, DIM = 8, OUTPUTS = 5, PATTERN = 0x5a };

/* out, logsumexp, dq, dk, dv */
static const size_t rows[OUTPUTS] = {QUERIES, QUERIES, QUERIES, KEYS, KEYS}, columns[OUTPUTS] = {DIM, 1, DIM, DIM, DIM};
static float query[HEADS * QUERIES * DIM], key[HEADS * KEYS * DIM], dout[HEADS * QUERIES * DIM];
static float written[OUTPUTS][HEADS * KEYS * DIM], forward_out[OUTPUTS][HEADS * KEYS * DIM];
static mfa_context_t context;
static mfa_tensor_t q, k, d, results[OUTPUTS];
static mfa_buffer_t buffers[3 + OUTPUTS]; /* of query, key, dout and the results */
static mfa_buffer_t coded;                /* codes of keys */
static const mfa_quantization_params_t params = {0.01f, 0, MFA_PRECISION_INT8};
static mfa_attention_desc_t forward;
static mfa_attention_backward_desc_t backward;
static int32_t page[1], length[1]; /* all keys are in one page, or in one but for one that is appended */
static mfa_tensor_t page_table, key_lengths;
static mfa_sequences_t sequences;
static mfa_pages_t pages;
static mfa_append_t append;
static float cache[2][HEADS * (KEYS + 1) * DIM];
static mfa_tensor_t caches[2], new_row;
static int checks_failed;

static void check(bool good, const char *name, const char *what) {
    if (good)
        return;
    ++checks_failed;
    dprintf(2, "%s: %s\n", name, what);
}

static mfa_tensor_t tensor(float *data, size_t count, size_t width) {
    mfa_tensor_t t = MFA_TENSOR_INIT;
    const int64_t shape[4] = {1, HEADS, (int64_t)count, (int64_t)width};
    /* The layout of the flat calls, but for logsumexp: batch, row, head, column. */
    const bool by_head = width == 1;
    const int64_t stride[4] = {(int64_t)(HEADS * count * width), (int64_t)(by_head ? count : width),
                               (int64_t)(by_head ? 1 : HEADS * width), 1};
    t.data = data;
    memcpy(t.shape, shape, sizeof shape);
    memcpy(t.stride, stride, sizeof stride);
    return t;
}

/* ------------------------------------------------------------------ the calls */

static mfa_status_t do_create(void) {
    mfa_context_t made = NULL;
    const mfa_status_t status = F(mfa_create_context)(&made);
    check((made != NULL) == (status == MFA_SUCCESS), "mfa_create_context", "handle");
    F(mfa_destroy_context)(made);
    return status;
}

static mfa_status_t do_create_with_options(void) {
    mfa_context_options_t options = MFA_CONTEXT_OPTIONS_INIT;
    options.flags = MFA_CONTEXT_ALLOW_CPU_FALLBACK;
    mfa_context_t made = NULL;
    const mfa_status_t status = F(mfa_create_context_with_options)(&options, &made);
    check((made != NULL) == (status == MFA_SUCCESS), "mfa_create_context_with_options", "handle");
    F(mfa_destroy_context)(made);
    return status;
}

static mfa_status_t do_describe(void) {
    mfa_context_info_t info = MFA_CONTEXT_INFO_INIT;
    return F(mfa_context_describe)(context, &info);
}

static mfa_status_t do_trim(void) { return F(mfa_context_trim)(context); }

static mfa_status_t give_back(mfa_status_t status, mfa_buffer_t buffer) {
    check((buffer != NULL) == (status == MFA_SUCCESS), "a buffer", "handle");
    F(mfa_destroy_buffer)(buffer);
    return status;
}

static mfa_status_t do_create_buffer(void) {
    mfa_buffer_t made = NULL;
    const mfa_status_t status = F(mfa_create_buffer)(context, 100, &made);
    return give_back(status, made);
}

static mfa_status_t do_wrap(void) {
    mfa_buffer_t made = NULL;
    const mfa_status_t status = F(mfa_buffer_from_ptr)(context, query, sizeof query, &made);
    return give_back(status, made);
}

static mfa_status_t do_adopt(void) {
    mfa_buffer_t made = NULL;
    const mfa_status_t status = F(mfa_buffer_from_mtl_buffer)(context, query, &made);
    return give_back(status, made);
}

static mfa_status_t do_destroy(void) {
    F(mfa_destroy_context)(NULL);
    F(mfa_destroy_buffer)(NULL);
    return MFA_SUCCESS;
}

static mfa_status_t do_ask_buffer(void) {
    const bool right = F(mfa_buffer_contents)(buffers[0]) == query && F(mfa_buffer_size)(buffers[0]) == sizeof query &&
                       F(mfa_buffer_is_zero_copy)(buffers[0]);
    return right ? MFA_SUCCESS : MFA_ERROR_EXECUTION_FAILED;
}

static mfa_status_t do_ask(void) {
    int major = -1;
    F(mfa_get_version)(&major, NULL, NULL);
    const bool right = major == MFA_VERSION_MAJOR && F(mfa_error_string)(0)[0] != '\0' &&
                       !F(mfa_is_device_supported)() && F(mfa_get_gpu_latency)(NULL) == 0 &&
                       F(mfa_last_error_message)(NULL)[0] == '\0';
    return right ? MFA_SUCCESS : MFA_ERROR_EXECUTION_FAILED;
}

static mfa_status_t do_flat(void) {
    return F(mfa_attention_forward)(context, buffers[0], buffers[1], buffers[1], buffers[3], 1, QUERIES, KEYS, HEADS,
                                    DIM, 0.5f, false, 2, 2, 2, 0, 0, 0, 0);
}

static mfa_status_t do_flat_with_lse(void) {
    return F(mfa_attention_forward_with_lse)(context, buffers[0], buffers[1], buffers[1], buffers[3], buffers[4], 1,
                                             QUERIES, KEYS, HEADS, DIM, 0.5f, false, 2, 2, 2, 0, 0, 0, 0);
}

static mfa_status_t do_flat_backward(void) {
    memcpy(written[0], forward_out[0], sizeof written[0]);
    memcpy(written[1], forward_out[1], sizeof written[1]);
    return F(mfa_attention_backward)(context, buffers[2], buffers[0], buffers[1], buffers[1], buffers[3], buffers[4],
                                     buffers[5], buffers[6], buffers[7], 1, QUERIES, KEYS, HEADS, DIM, 0.5f, false, 2,
                                     2, 2, 0, 0, 0, 0);
}

static mfa_status_t do_forward(void) { return F(mfa_attention_forward_desc)(context, &forward); }
static mfa_status_t do_forward_encode(void) { return F(mfa_attention_forward_encode)(context, &forward, query); }
static mfa_status_t do_backward_encode(void) { return F(mfa_attention_backward_encode)(context, &backward, query); }

static mfa_status_t do_backward(void) {
    memcpy(written[0], forward_out[0], sizeof written[0]);
    memcpy(written[1], forward_out[1], sizeof written[1]);
    return F(mfa_attention_backward_desc)(context, &backward);
}

/* The same results, by way of tables and marks. */
static mfa_status_t do_backward_of_pages(void) {
    forward.pages = &pages;
    const mfa_status_t status = do_backward();
    forward.pages = NULL;
    return status;
}

/* Keys behind the last one of a cache are not written to without memory. */
static mfa_status_t do_append(void) {
    mfa_attention_desc_t desc = forward;
    memset(cache, 0, sizeof cache);
    desc.key = &caches[0];
    desc.value = &caches[1];
    desc.out = &results[2];
    desc.logsumexp = NULL;
    desc.sequences = &sequences;
    desc.pages = &pages;
    desc.append = &append;
    const mfa_status_t status = F(mfa_attention_forward_desc)(context, &desc);
    const float *behind = &cache[0][HEADS * KEYS * DIM];
    bool is_zero = true;
    for (int i = 0; i < HEADS * DIM; ++i)
        is_zero &= behind[i] == 0;
    check(is_zero == (status != MFA_SUCCESS), "append", "the cache");
    return status;
}

/* One scale for all keys. */
static mfa_status_t do_quantize(void) {
    static int8_t bytes[sizeof key / sizeof *key];
    float scale = 0;
    memset(bytes, PATTERN, sizeof bytes);
    mfa_tensor_t codes = k, scales = tensor(&scale, 1, 1);
    codes.precision = MFA_PRECISION_INT8;
    codes.data = bytes;
    scales.shape[1] = 1;
    mfa_quantization_t quantization = MFA_QUANTIZATION_INIT;
    quantization.scales = &scales;
    mfa_quantize_desc_t desc = MFA_QUANTIZE_DESC_INIT;
    desc.input = &k;
    desc.codes = &codes;
    desc.quantization = &quantization;
    const mfa_status_t status = F(mfa_quantize)(context, &desc);
    bool is_pattern = true;
    for (size_t i = 0; i < sizeof bytes; ++i)
        is_pattern &= bytes[i] == PATTERN;
    check(is_pattern == (status != MFA_SUCCESS) && (scale == 0) == is_pattern, "mfa_quantize", "codes");
    return status;
}

static mfa_status_t do_create_quantized(void) {
    mfa_buffer_t made = NULL;
    const mfa_status_t status =
        F(mfa_create_quantized_buffer)(context, 100, params.precision, params.scale, params.zero_point, &made);
    return give_back(status, made);
}

static mfa_status_t do_quantize_batch(void) {
    return F(mfa_quantize_tensor_batch)(context, &buffers[1], &coded, &params, 1);
}

static mfa_status_t do_ask_quantized(void) {
    const mfa_shape_t shape = {1, {100}};
    const bool right = F(mfa_validate_quantization_params)(&params, -1, 1) == MFA_SUCCESS &&
                       F(mfa_calculate_memory_reduction)(&shape, MFA_PRECISION_FP32, MFA_PRECISION_INT8) == 4 &&
                       F(mfa_estimate_quantization_error)(buffers[1], coded, &params) >= 0;
    return right ? MFA_SUCCESS : MFA_ERROR_EXECUTION_FAILED;
}

static mfa_status_t do_mixed(void) {
    return F(mfa_attention_forward_mixed)(context, buffers[0], coded, coded, buffers[3], 1, QUERIES, KEYS, HEADS, DIM,
                                          0.5f, false, 2, MFA_PRECISION_INT8, MFA_PRECISION_INT8, 2, 0, 0, 0, 0);
}

static mfa_status_t do_quantized(void) {
    return F(mfa_attention_forward_quantized)(context, buffers[0], coded, coded, buffers[3], buffers[4], 1, QUERIES,
                                              KEYS, HEADS, DIM, 0.5f, false, &params, &params);
}

static mfa_status_t do_quantized_query(void) {
    return F(mfa_attention_backward_query_quantized)(context, buffers[0], coded, coded, buffers[3], buffers[2],
                                                     buffers[4], buffers[5], buffers[6], 1, QUERIES, KEYS, HEADS, DIM,
                                                     0.5f, false, &params, &params);
}

static mfa_status_t do_quantized_keys(void) {
    return F(mfa_attention_backward_kv_quantized)(context, buffers[0], coded, coded, buffers[2], buffers[4], buffers[5],
                                                  buffers[6], buffers[7], 1, QUERIES, KEYS, HEADS, DIM, 0.5f, false,
                                                  &params, &params);
}

static mfa_status_t do_forward_plan(void) {
    mfa_plan_t plan = MFA_PLAN_INIT;
    return F(mfa_attention_forward_plan)(context, &forward, &plan);
}

static mfa_status_t do_backward_plan(void) {
    mfa_plan_t plan = MFA_PLAN_INIT;
    return F(mfa_attention_backward_plan)(context, &backward, &plan);
}

static mfa_status_t do_wrong_call(void) { return F(mfa_create_buffer)(NULL, 1, NULL); }

typedef struct {
    const char *names; /* of the functions it is about */
    mfa_status_t (*call)(void);
    mfa_status_t expected; /* with memory */
    int first, last;       /* the results it writes; none if last is lower */
} case_t;

static const case_t cases[] = {
    {"mfa_create_context", do_create, MFA_SUCCESS, 0, -1},
    {"mfa_create_context_with_options", do_create_with_options, MFA_SUCCESS, 0, -1},
    {"mfa_context_describe", do_describe, MFA_SUCCESS, 0, -1},
    {"mfa_context_trim", do_trim, MFA_SUCCESS, 0, -1},
    {"mfa_create_buffer", do_create_buffer, MFA_SUCCESS, 0, -1},
    {"mfa_buffer_from_ptr", do_wrap, MFA_SUCCESS, 0, -1},
    {"mfa_buffer_from_mtl_buffer", do_adopt, MFA_ERROR_UNSUPPORTED, 0, -1},
    {"mfa_destroy_context mfa_destroy_buffer", do_destroy, MFA_SUCCESS, 0, -1},
    {"mfa_buffer_contents mfa_buffer_size mfa_buffer_is_zero_copy", do_ask_buffer, MFA_SUCCESS, 0, -1},
    {"mfa_get_version mfa_error_string mfa_is_device_supported mfa_get_gpu_latency mfa_last_error_message", do_ask,
     MFA_SUCCESS, 0, -1},
    {"mfa_attention_forward", do_flat, MFA_SUCCESS, 0, 0},
    {"mfa_attention_forward_with_lse", do_flat_with_lse, MFA_SUCCESS, 0, 1},
    {"mfa_attention_backward", do_flat_backward, MFA_SUCCESS, 2, 4},
    {"mfa_attention_forward_desc", do_forward, MFA_SUCCESS, 0, 1},
    {"mfa_attention_backward_desc", do_backward, MFA_SUCCESS, 2, 4},
    {"mfa_attention_backward_desc", do_backward_of_pages, MFA_SUCCESS, 2, 4},
    {"mfa_attention_forward_desc", do_append, MFA_SUCCESS, 0, -1},
    {"mfa_attention_forward_encode", do_forward_encode, MFA_ERROR_UNSUPPORTED, 0, -1},
    {"mfa_attention_backward_encode", do_backward_encode, MFA_ERROR_UNSUPPORTED, 0, -1},
    {"mfa_attention_forward_plan", do_forward_plan, MFA_SUCCESS, 0, -1},
    {"mfa_attention_backward_plan", do_backward_plan, MFA_SUCCESS, 0, -1},
    {"mfa_quantize", do_quantize, MFA_SUCCESS, 0, -1},
    {"mfa_create_quantized_buffer", do_create_quantized, MFA_SUCCESS, 0, -1},
    {"mfa_quantize_tensor_batch", do_quantize_batch, MFA_SUCCESS, 0, -1},
    {"mfa_validate_quantization_params mfa_calculate_memory_reduction mfa_estimate_quantization_error",
     do_ask_quantized, MFA_SUCCESS, 0, -1},
    {"mfa_attention_forward_mixed", do_mixed, MFA_SUCCESS, 0, -1},
    {"mfa_attention_forward_quantized", do_quantized, MFA_SUCCESS, 0, -1},
    {"mfa_attention_backward_query_quantized", do_quantized_query, MFA_SUCCESS, 0, -1},
    {"mfa_attention_backward_kv_quantized", do_quantized_keys, MFA_SUCCESS, 0, -1},
    {"mfa_create_buffer", do_wrong_call, MFA_ERROR_INVALID_ARGS, 0, -1},
};
enum { CASES = sizeof cases / sizeof *cases };

/* ------------------------------------------------------------------ the attack */

typedef struct {
    const case_t *c;
    int allowed; /* allocations that succeed; negative: all */
    bool for_good;
    int failures;
} attack_t;

static size_t bytes_of(int result) { return HEADS * rows[result] * columns[result] * sizeof(float); }

static bool is_untouched(int result) {
    const unsigned char *bytes = (const unsigned char *)written[result];
    for (size_t i = 0; i < bytes_of(result); ++i)
        if (bytes[i] != PATTERN)
            return false;
    return true;
}

static void *run_attack(void *argument) {
    attack_t *attack = argument;
    const case_t *c = attack->c;
    memset(written, PATTERN, sizeof written);
    countdown = attack->allowed;
    failures = 0;
    for_good = attack->for_good;
    armed = attack->allowed >= 0;
    const mfa_status_t status = c->call();
    armed = false;
    attack->failures = failures;

    const bool lacked_memory = failures > 0 && status == MFA_ERROR_MEMORY_ALLOCATION;
    check(status == c->expected || lacked_memory, c->names, "status");
    const double seconds = F(mfa_get_gpu_latency)(NULL);
    check(!(seconds < 0), c->names, "latency");
    check((F(mfa_last_error_message)(NULL)[0] != '\0') == (status != MFA_SUCCESS), c->names, "message");
    for (int i = c->first; i <= c->last; ++i) {
        const bool right = memcmp(written[i], forward_out[i], bytes_of(i)) == 0;
        check(status == MFA_SUCCESS ? right : is_untouched(i), c->names, "result");
    }
    return NULL;
}

static void in_thread(attack_t *attack) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, run_attack, attack) != 0 || pthread_join(thread, NULL) != 0)
        check(false, attack->c->names, "thread");
}

/* In a process of its own, which has no pool yet unless `warm`; only then can one tell what is lost. */
static int attack_in_child(attack_t attack, bool warm) {
    const pid_t child = fork();
    if (child == 0) {
        alarm(60);
        checks_failed = 0;
        if (warm)
            for (int i = 0; i < 2; ++i)
                in_thread(&(attack_t){attack.c, -1, false, 0});
        F(mfa_context_trim)(context);
        const long before = living;
        in_thread(&attack);
        F(mfa_context_trim)(context);
        check(!warm || living == before, attack.c->names, "memory is lost");
        _exit(checks_failed != 0 ? 255 : attack.failures);
    }
    int status = -1;
    if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status) == 255) {
        dprintf(2, "%s: allocation %d%s, %s pool: wait status 0x%x\n", attack.c->names, attack.allowed,
                attack.for_good ? " and later" : "", warm ? "with a" : "without a", (unsigned)status);
        ++checks_failed;
        return 0;
    }
    return WEXITSTATUS(status);
}

static void set_up(const char *path) {
    library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        dprintf(2, "%s\n", dlerror());
        exit(1);
    }
    for (size_t i = 0; i < sizeof query / sizeof *query; ++i)
        query[i] = (float)(i * 7 % 13) / 6 - 1, dout[i] = (float)(i * 5 % 11) / 5 - 1;
    for (size_t i = 0; i < sizeof key / sizeof *key; ++i)
        key[i] = (float)(i * 3 % 17) / 8 - 1;
    mfa_context_options_t options = MFA_CONTEXT_OPTIONS_INIT;
    options.backend = MFA_BACKEND_CPU;
    options.num_threads = 3;
    check(F(mfa_create_context_with_options)(&options, &context) == MFA_SUCCESS, "set up", "context");
    check(F(mfa_create_quantized_buffer)(context, sizeof key / sizeof *key, params.precision, params.scale,
                                         params.zero_point, &coded) == MFA_SUCCESS,
          "set up", "codes");
    q = tensor(query, QUERIES, DIM), k = tensor(key, KEYS, DIM), d = tensor(dout, QUERIES, DIM);
    void *const memory[3] = {query, key, dout};
    const size_t sizes[3] = {sizeof query, sizeof key, sizeof dout};
    for (int i = 0; i < 3; ++i)
        check(F(mfa_buffer_from_ptr)(context, memory[i], sizes[i], &buffers[i]) == MFA_SUCCESS, "set up", "buffer");
    for (int i = 0; i < OUTPUTS; ++i) {
        results[i] = tensor(written[i], rows[i], columns[i]);
        check(F(mfa_buffer_from_ptr)(context, written[i], bytes_of(i), &buffers[3 + i]) == MFA_SUCCESS, "set up",
              "buffer");
    }
    forward = (mfa_attention_desc_t)MFA_ATTENTION_DESC_INIT;
    forward.query = &q;
    forward.key = forward.value = &k;
    forward.out = &results[0];
    forward.logsumexp = &results[1];
    forward.softmax_scale = 0.5f;
    backward = (mfa_attention_backward_desc_t)MFA_ATTENTION_BACKWARD_DESC_INIT;
    backward.forward = &forward;
    backward.dout = &d;
    backward.dquery = &results[2];
    backward.dkey = &results[3];
    backward.dvalue = &results[4];
    page_table = key_lengths = (mfa_tensor_t)MFA_TENSOR_INIT;
    for (int axis = 0; axis < 4; ++axis)
        page_table.shape[axis] = key_lengths.shape[axis] = 1;
    page_table.precision = key_lengths.precision = MFA_PRECISION_INT32;
    page_table.data = page;
    key_lengths.data = length;
    length[0] = KEYS;
    pages = (mfa_pages_t)MFA_PAGES_INIT;
    pages.page_table = &page_table;
    sequences = (mfa_sequences_t)MFA_SEQUENCES_INIT;
    sequences.key_lengths = &key_lengths;
    new_row = tensor(key, 1, DIM);
    append = (mfa_append_t)MFA_APPEND_INIT;
    append.key = append.value = &new_row;
    for (int i = 0; i < 2; ++i)
        caches[i] = tensor(cache[i], KEYS + 1, DIM);
}

/* What the results are, from a process that has memory. */
static void *expect(void *argument) {
    (void)argument;
    mfa_context_t wide = context;
    mfa_context_options_t options = MFA_CONTEXT_OPTIONS_INIT;
    options.backend = MFA_BACKEND_CPU;
    options.num_threads = 1; /* makes no pool */
    check(F(mfa_create_context_with_options)(&options, &context) == MFA_SUCCESS, "expect", "context");
    check(do_forward() == MFA_SUCCESS, "expect", "forward");
    memcpy(forward_out, written, sizeof written);
    check(do_backward() == MFA_SUCCESS, "expect", "backward");
    memcpy(forward_out, written, sizeof written);
    F(mfa_destroy_context)(context);
    context = wide;
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 2)
        return 2;
    set_up(argv[1]);
    pthread_t thread;
    if (pthread_create(&thread, NULL, expect, NULL) != 0 || pthread_join(thread, NULL) != 0)
        return 1;
    long total = 0;
    for (int c = 0; c < CASES; ++c) {
        for (int warm = 0; warm < 2; ++warm)
            for (int good = 0; good < 2; ++good) {
                int count = 1;
                for (int n = 0; count > 0; ++n)
                    total += count = attack_in_child((attack_t){&cases[c], n, good, 0}, warm);
            }
        printf("%s\n", cases[c].names);
    }
    printf("%ld allocations failed\n", total);
    return checks_failed != 0;
}
