/*
 * Contexts and buffers in any order of making, asking and giving up: options of any value and version, environment
 * variables, sizes, NULLs. Each answer is held against what was asked for.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"

enum { MOST = 4, BLOCK = 256 };

typedef struct {
    mfa_context_t contexts[MOST];
    struct {
        mfa_buffer_t handle;
        size_t size;
        void *memory; /* the caller's, if it wraps any */
    } buffers[MOST];
} handles_t;

static const char *const variables[] = {"MFA_BACKEND", "MFA_NUM_THREADS", "MFA_CPU_ISA"};

static void set_variable(reader_t *r) {
    static const char *const values[] = {
        "",   "cpu", "metal",  "auto", "1",      "4",    "0",  "-1", "99999999999999999999",
        "4x", " ",   "scalar", "avx2", "avx512", "neon", "CPU"};
    const char *name = READ_PICK(r, variables);
    if (read_chance(r, 8))
        unsetenv(name);
    else
        setenv(name, READ_PICK(r, values), 1);
}

static bool is_plain_environment(void) {
    for (size_t i = 0; i < sizeof variables / sizeof *variables; ++i)
        if (getenv(variables[i]) != NULL)
            return false;
    return true;
}

/* What is wrong whatever the machine. */
static bool is_wrong(const mfa_context_options_t *o) {
    return (o->flags & ~MFA_CONTEXT_ALLOW_CPU_FALLBACK) != 0 || o->device < 0 || o->num_threads < 0 || o->cpu_isa < 0 ||
           o->cpu_isa > MFA_CPU_ISA_NEON || o->backend < 0 || o->backend > MFA_BACKEND_METAL;
}

static void describe(reader_t *r, mfa_context_t context, int32_t threads);

static void make_context(reader_t *r, handles_t *all, int at) {
    mfa_context_options_t options = MFA_CONTEXT_OPTIONS_INIT;
    int32_t *const fields[] = {&options.backend, &options.device, &options.num_threads, &options.cpu_isa};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; ++i)
        *fields[i] = read_chance(r, 8) ? (int32_t)read_integer(r) : read_below(r, 5);
    options.flags = read_chance(r, 8) ? (uint32_t)read_integer(r) : (uint32_t)read_below(r, 2);
    const bool has_options = read_below(r, 8) != 1, has_handle = read_below(r, 16) != 1;
    mfa_context_t context = (mfa_context_t)all;
    forget_message();
    const mfa_status_t status =
        checked("create_context", has_options ? mfa_create_context_with_options(&options, has_handle ? &context : NULL)
                                              : mfa_create_context(has_handle ? &context : NULL));
    EXPECT(status == MFA_SUCCESS || context == (mfa_context_t)all, "a context that failed is written");
    EXPECT(has_handle || status == MFA_ERROR_INVALID_ARGS, "no place for a context is accepted");
    EXPECT(!has_options || !is_wrong(&options) || status == MFA_ERROR_INVALID_ARGS, "wrong options gave status %d",
           status);
    EXPECT(!(has_handle && !has_options && is_plain_environment()) || status == MFA_SUCCESS, "no plain context: %d",
           status);
    if (status != MFA_SUCCESS)
        return;
    mfa_destroy_context(all->contexts[at]);
    all->contexts[at] = context;
    describe(r, context, has_options ? options.num_threads : 0);
}

/* Into a struct of any version, with nothing behind it. */
static void describe(reader_t *r, mfa_context_t context, int32_t threads) {
    const uint32_t known = (uint32_t)sizeof(mfa_context_info_t);
    const uint32_t size = read_chance(r, 2)   ? known
                          : read_chance(r, 2) ? known + (uint32_t)read_below(r, 256)
                                              : (uint32_t)read_below(r, 256);
    unsigned char *info = malloc(size > 4 ? size : 4);
    memset(info, 0xa5, size > 4 ? size : 4);
    memcpy(info, &size, sizeof size);
    forget_message();
    const mfa_status_t status = checked("describe", mfa_context_describe(context, (mfa_context_info_t *)info));
    EXPECT((status == MFA_SUCCESS) == (size >= known), "info of %u bytes gave status %d", size, status);
    if (planted("write beyond a struct"))
        info[size] = 0;
    for (uint32_t i = status == MFA_SUCCESS ? known : 4; i < size; ++i)
        EXPECT(info[i] == 0xa5, "byte %u of an info of %u is written", i, size);
    if (status == MFA_SUCCESS) {
        mfa_context_info_t got;
        memcpy(&got, info, sizeof got);
        EXPECT(got.struct_size == size, "struct_size is changed");
        EXPECT(got.backend != MFA_BACKEND_CPU || (got.num_threads >= 1 && got.num_threads <= 1024), "%d threads",
               got.num_threads);
        EXPECT(got.backend != MFA_BACKEND_CPU || threads == 0 || got.num_threads == (threads > 1024 ? 1024 : threads),
               "%d threads for %d", got.num_threads, threads);
        EXPECT(memchr(got.backend_name, 0, sizeof got.backend_name) && memchr(got.isa_name, 0, sizeof got.isa_name) &&
                   memchr(got.device_name, 0, sizeof got.device_name),
               "a string does not end");
    }
    free(info);
}

static void give_up_buffer(handles_t *all, int at) {
    mfa_destroy_buffer(all->buffers[at].handle);
    free(all->buffers[at].memory);
    memset(&all->buffers[at], 0, sizeof all->buffers[at]);
}

static void make_buffer(reader_t *r, handles_t *all, int at, mfa_context_t context) {
    static const size_t huge[] = {SIZE_MAX, PTRDIFF_MAX, (size_t)PTRDIFF_MAX + 1};
    const bool wraps = read_chance(r, 2), has_data = read_below(r, 8) != 1, has_handle = read_below(r, 16) != 1;
    const bool is_huge = read_chance(r, 8);
    const size_t size = is_huge ? READ_PICK(r, huge) : (size_t)read_below(r, BLOCK);
    void *memory = wraps && has_data ? malloc(BLOCK) : NULL;
    mfa_buffer_t buffer = (mfa_buffer_t)all;
    forget_message();
    const mfa_status_t status =
        checked("make a buffer", wraps ? mfa_buffer_from_ptr(context, memory, size, has_handle ? &buffer : NULL)
                                       : mfa_create_buffer(context, size, has_handle ? &buffer : NULL));
    const bool right = context != NULL && has_handle && size <= PTRDIFF_MAX && !(wraps && !has_data && size > 0);
    EXPECT(right ? status == MFA_SUCCESS || (is_huge && !wraps && status == MFA_ERROR_MEMORY_ALLOCATION)
                 : status == MFA_ERROR_INVALID_ARGS,
           "a buffer of %zu bytes gave status %d", size, status);
    if (status != MFA_SUCCESS) {
        EXPECT(buffer == (mfa_buffer_t)all, "a buffer that failed is written");
        free(memory);
        return;
    }
    EXPECT(mfa_buffer_size(buffer) == size, "the size is %zu, not %zu", mfa_buffer_size(buffer), size);
    EXPECT(memory == NULL || mfa_buffer_contents(buffer) == memory, "the memory is another");
    const unsigned char *contents = mfa_buffer_contents(buffer);
    for (size_t i = 0; !wraps && i < size; ++i)
        EXPECT(contents[i] == 0, "new memory is not zero");
    give_up_buffer(all, at);
    all->buffers[at].handle = buffer;
    all->buffers[at].size = size;
    all->buffers[at].memory = memory;
}

static void ask_buffer(const handles_t *all, int at) {
    const mfa_buffer_t buffer = all->buffers[at].handle;
    unsigned char *contents = mfa_buffer_contents(buffer);
    EXPECT(mfa_buffer_size(buffer) == all->buffers[at].size, "the size has changed");
    EXPECT(buffer != NULL ? contents != NULL : contents == NULL && !mfa_buffer_is_zero_copy(buffer),
           "of no buffer something is said");
    if (buffer != NULL && all->buffers[at].size <= BLOCK)
        memset(contents, 0x3c, all->buffers[at].size);
}

static void ask_about_nothing(reader_t *r) {
    static const int header[3] = {MFA_VERSION_MAJOR, MFA_VERSION_MINOR, MFA_VERSION_PATCH};
    int version[3] = {-1, -1, -1};
    const int wanted = read_below(r, 8);
    mfa_get_version(wanted & 1 ? &version[0] : NULL, wanted & 2 ? &version[1] : NULL, wanted & 4 ? &version[2] : NULL);
    for (int i = 0; i < 3; ++i)
        EXPECT(version[i] == (wanted >> i & 1 ? header[i] : -1), "part %d of the version is %d", i, version[i]);
    const char *name = mfa_error_string((int32_t)read_integer(r));
    EXPECT(name != NULL && *name != '\0', "a status without a name");
    EXPECT(mfa_get_gpu_latency(NULL) >= 0, "a negative latency");
    (void)mfa_is_device_supported();
}

static void adopt(mfa_context_t context, void *anything) {
    mfa_buffer_t buffer = NULL;
    forget_message();
    const mfa_status_t status = checked("from_mtl_buffer", mfa_buffer_from_mtl_buffer(context, anything, &buffer));
    EXPECT(status == (context != NULL && anything != NULL ? MFA_ERROR_UNSUPPORTED : MFA_ERROR_INVALID_ARGS),
           "a Metal buffer gave status %d", status);
}

static void step(reader_t *r, handles_t *all) {
    const int what = read_below(r, 10), at = read_below(r, MOST);
    mfa_context_t context = all->contexts[read_below(r, MOST)];
    switch (what) {
    case 0:
    case 1:
        make_context(r, all, at);
        break;
    case 2: /* its buffers stay */
        mfa_destroy_context(all->contexts[at]);
        all->contexts[at] = NULL;
        break;
    case 3:
        if (context != NULL)
            describe(r, context, 0);
        break;
    case 4:
        forget_message();
        EXPECT(checked("trim", mfa_context_trim(context)) == (context != NULL ? MFA_SUCCESS : MFA_ERROR_INVALID_ARGS),
               "trim");
        break;
    case 5:
    case 6:
        make_buffer(r, all, at, context);
        break;
    case 7:
        ask_buffer(all, at);
        break;
    case 8:
        give_up_buffer(all, at);
        break;
    default:
        ask_about_nothing(r);
        adopt(context, read_chance(r, 2) ? all : NULL);
        set_variable(r);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    reader_t r = {data, data + size};
    handles_t all = {0};
    forget_message(); /* makes the context that it needs before any variable is set */
    while (!read_is_at_end(&r))
        step(&r, &all);
    for (int i = 0; i < MOST; ++i) {
        mfa_destroy_context(all.contexts[i]);
        give_up_buffer(&all, i);
    }
    for (size_t i = 0; i < sizeof variables / sizeof *variables; ++i)
        unsetenv(variables[i]);
    return 0;
}
