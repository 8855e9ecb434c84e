/* Contexts and buffers: options, environment, lifetimes. */
#include <stdlib.h>

#include "check.h"
#include "mfa.h"

static mfa_status_t create(mfa_context_options_t options, mfa_context_t *context) {
    return mfa_create_context_with_options(&options, context);
}

#define OPTIONS(...) ((mfa_context_options_t){.struct_size = sizeof(mfa_context_options_t), __VA_ARGS__})

static void test_options(void) {
    mfa_context_t context = NULL;
    CHECK_FAILS(mfa_create_context(NULL), MFA_ERROR_INVALID_ARGS, "context is NULL");
    CHECK_FAILS(create(OPTIONS(.backend = 9), &context), MFA_ERROR_INVALID_ARGS, "options.backend is 9");
    CHECK_FAILS(create(OPTIONS(.device = -1), &context), MFA_ERROR_INVALID_ARGS, "options.device is -1");
    CHECK_FAILS(create(OPTIONS(.num_threads = -1), &context), MFA_ERROR_INVALID_ARGS, "options.num_threads is -1");
    CHECK_FAILS(create(OPTIONS(.cpu_isa = 5), &context), MFA_ERROR_INVALID_ARGS, "options.cpu_isa is 5");
    CHECK_FAILS(create(OPTIONS(.flags = 2), &context), MFA_ERROR_INVALID_ARGS, "options.flags is 0x2");
    CHECK_FAILS(create((mfa_context_options_t){.struct_size = 4}, &context), MFA_ERROR_INVALID_ARGS,
                "options.struct_size is 4");
#if defined(__x86_64__)
    CHECK_FAILS(create(OPTIONS(.cpu_isa = MFA_CPU_ISA_NEON), &context), MFA_ERROR_DEVICE_NOT_SUPPORTED, "cpu_isa neon");
#endif
    if (!mfa_is_device_supported())
        CHECK_FAILS(create(OPTIONS(.backend = MFA_BACKEND_METAL), &context), MFA_ERROR_DEVICE_NOT_SUPPORTED,
                    "\"metal\"");
    CHECK(context == NULL);

    CHECK(create(OPTIONS(.backend = MFA_BACKEND_CPU, .num_threads = 3, .cpu_isa = MFA_CPU_ISA_SCALAR, .flags = 1),
                 &context) == 0);
    mfa_context_info_t info = MFA_CONTEXT_INFO_INIT;
    CHECK(mfa_context_describe(context, &info) == MFA_SUCCESS);
    CHECK(info.backend == MFA_BACKEND_CPU && info.num_threads == 3 && info.cpu_isa == MFA_CPU_ISA_SCALAR &&
          info.flags == 1);
    CHECK(!strcmp(info.backend_name, "cpu") && !strcmp(info.isa_name, "scalar") && info.device_name[0] != '\0');
    CHECK_FAILS(mfa_context_describe(NULL, &info), MFA_ERROR_INVALID_ARGS, "context is NULL");
    CHECK_FAILS(mfa_context_describe(context, NULL), MFA_ERROR_INVALID_ARGS, "info is NULL");
    CHECK_FAILS(mfa_context_trim(NULL), MFA_ERROR_INVALID_ARGS, "context is NULL");
    CHECK(mfa_context_trim(context) == MFA_SUCCESS);
    mfa_destroy_context(context);
    mfa_destroy_context(NULL);
}

static void test_environment(void) {
    static const char *const wrong[][3] = {{"MFA_BACKEND", "cuda", "MFA_BACKEND is \"cuda\""},
                                           {"MFA_CPU_ISA", "sse9", "MFA_CPU_ISA is \"sse9\""},
                                           {"MFA_NUM_THREADS", "0", "MFA_NUM_THREADS is \"0\""},
                                           {"MFA_NUM_THREADS", "two", "MFA_NUM_THREADS is \"two\""},
                                           {"MFA_NUM_THREADS", "99999999999999999999", "MFA_NUM_THREADS is"}};
    mfa_context_t context = NULL;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; ++i) {
        setenv(wrong[i][0], wrong[i][1], 1);
        CHECK_FAILS(mfa_create_context(&context), MFA_ERROR_INVALID_ARGS, wrong[i][2]);
        unsetenv(wrong[i][0]);
    }
    setenv("MFA_BACKEND", "cpu", 1);
    setenv("MFA_CPU_ISA", "scalar", 1);
    setenv("MFA_NUM_THREADS", "5", 1);
    mfa_context_info_t info = MFA_CONTEXT_INFO_INIT;
    CHECK(mfa_create_context(&context) == MFA_SUCCESS && mfa_context_describe(context, &info) == MFA_SUCCESS);
    CHECK(info.cpu_isa == MFA_CPU_ISA_SCALAR && info.num_threads == 5);
    mfa_destroy_context(context);
    setenv("MFA_CPU_ISA", "nonsense", 1); /* what the caller sets wins */
    CHECK(create(OPTIONS(.num_threads = 2, .cpu_isa = MFA_CPU_ISA_SCALAR), &context) == MFA_SUCCESS);
    CHECK(mfa_context_describe(context, &info) == MFA_SUCCESS && info.num_threads == 2);
    mfa_destroy_context(context);
    unsetenv("MFA_BACKEND");
    unsetenv("MFA_CPU_ISA");
    unsetenv("MFA_NUM_THREADS");
}

static void test_buffers(void) {
    mfa_context_t context = NULL;
    mfa_buffer_t owned = NULL, wrapped = NULL, empty = NULL;
    CHECK(mfa_create_context(&context) == MFA_SUCCESS);
    CHECK_FAILS(mfa_create_buffer(NULL, 1, &owned), MFA_ERROR_INVALID_ARGS, "context is NULL");
    CHECK_FAILS(mfa_create_buffer(context, 1, NULL), MFA_ERROR_INVALID_ARGS, "buffer is NULL");
    CHECK_FAILS(mfa_create_buffer(context, SIZE_MAX, &owned), MFA_ERROR_INVALID_ARGS, "size_bytes is");
    CHECK_FAILS(mfa_buffer_from_ptr(context, NULL, 4, &wrapped), MFA_ERROR_INVALID_ARGS, "data is NULL");
    CHECK(owned == NULL && wrapped == NULL);

    char bytes[10] = "abc";
    CHECK(mfa_create_buffer(context, 1000, &owned) == MFA_SUCCESS);
    CHECK(mfa_buffer_from_ptr(context, bytes, sizeof bytes, &wrapped) == MFA_SUCCESS);
    CHECK(mfa_buffer_from_ptr(context, NULL, 0, &empty) == MFA_SUCCESS);
    mfa_destroy_context(context); /* the buffers keep what they need */
    CHECK(mfa_buffer_contents(wrapped) == bytes && mfa_buffer_size(wrapped) == 10 && mfa_buffer_is_zero_copy(wrapped));
    CHECK(mfa_buffer_size(empty) == 0 && mfa_buffer_size(owned) == 1000);
    const char *contents = mfa_buffer_contents(owned);
    int nonzero = 0;
    for (int i = 0; i < 1000; ++i)
        nonzero |= contents[i];
    CHECK(nonzero == 0 && (uintptr_t)contents % 64 == 0);
    mfa_destroy_buffer(owned);
    mfa_destroy_buffer(wrapped);
    mfa_destroy_buffer(empty);
    mfa_destroy_buffer(NULL);
    CHECK(mfa_buffer_contents(NULL) == NULL && mfa_buffer_size(NULL) == 0 && !mfa_buffer_is_zero_copy(NULL));
}

int main(void) {
    test_options();
    test_environment();
    test_buffers();
    return check_report();
}
