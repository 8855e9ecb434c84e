/* Views against a look at every element: how far they reach, whether an element shares memory, and what fits a
   buffer. */
#include "core/tensor.h"

#include <stdlib.h>

#include "check.h"

enum { ARENA = 4096, MIDDLE = ARENA / 2, EVERY_FORMAT = (1 << (MFA_PRECISION_BOOL + 1)) - 1 };

static mfai_view_t random_view(void) {
    mfai_view_t view = {.present = true, .format = MFA_PRECISION_FP16};
    for (int axis = 0; axis < 4; ++axis) {
        view.shape[axis] = 1 + rand() % 4;
        view.stride[axis] = view.shape[axis] > 1 ? rand() % 61 - 30 : 0;
    }
    return view;
}

/* How often each element from -MIDDLE on is part of the view; the lowest and one past the highest that are. */
static void count_elements(const mfai_view_t *view, unsigned char counts[ARENA], int64_t *lowest, int64_t *end) {
    memset(counts, 0, ARENA);
    *lowest = MIDDLE, *end = -MIDDLE;
    for (int64_t a = 0; a < view->shape[0]; ++a)
        for (int64_t b = 0; b < view->shape[1]; ++b)
            for (int64_t c = 0; c < view->shape[2]; ++c)
                for (int64_t d = 0; d < view->shape[3]; ++d) {
                    const int64_t at =
                        a * view->stride[0] + b * view->stride[1] + c * view->stride[2] + d * view->stride[3];
                    ++counts[MIDDLE + at];
                    *lowest = at < *lowest ? at : *lowest;
                    *end = at + 1 > *end ? at + 1 : *end;
                }
}

static void test_random(void) {
    int injective = 0, refused = 0;
    srand(1);
    for (int round = 0; round < 20000; ++round) {
        const mfai_view_t view = random_view();
        unsigned char counts[ARENA];
        int64_t lowest, end, low, high;
        count_elements(&view, counts, &lowest, &end);
        CHECK(mfai_view_extent(&view, &low, &high) && low == 2 * lowest && high == 2 * end);
        bool shared = false;
        for (int i = 0; i < ARENA; ++i)
            shared |= counts[i] > 1;
        /* It may refuse what is injective by luck, but takes nothing that is not. */
        if (mfai_view_expect_injective("out", &view) == MFA_SUCCESS) {
            CHECK(!shared);
            ++injective;
        } else {
            ++refused;
        }
    }
    CHECK(injective > 500 && refused > 500);
}

/* Any order of axes, either direction, with gaps or without. */
static void test_layouts_of_outputs(void) {
    srand(2);
    for (int round = 0; round < 2000; ++round) {
        mfai_view_t view = {.present = true, .format = MFA_PRECISION_FP32};
        int64_t stride = 1 + rand() % 2;
        int order[4] = {0, 1, 2, 3};
        for (int i = 3; i > 0; --i) {
            const int j = rand() % (i + 1), kept = order[i];
            order[i] = order[j];
            order[j] = kept;
        }
        for (int i = 0; i < 4; ++i) {
            view.shape[order[i]] = 1 + rand() % 5;
            view.stride[order[i]] = rand() % 2 ? stride : -stride;
            stride *= view.shape[order[i]] + rand() % 3;
        }
        CHECK(mfai_view_expect_injective("out", &view) == MFA_SUCCESS);
    }
}

static void test_overflow(void) {
    int64_t lowest, end;
    mfai_view_t view = {.present = true, .format = MFA_PRECISION_FP32, .shape = {2, 1, 1, 1}};
    view.stride[0] = INT64_MAX / 4;
    CHECK(!mfai_view_extent(&view, &lowest, &end)); /* the last element's end */
    view.stride[0] = INT64_MAX / 4 - 1;
    CHECK(mfai_view_extent(&view, &lowest, &end) && end == 4 * (INT64_MAX / 4));
    view.stride[0] = INT64_MIN;
    CHECK(!mfai_view_extent(&view, &lowest, &end));
    view.stride[0] = 0;
    for (int axis = 0; axis < 4; ++axis)
        view.shape[axis] = 1 << 16; /* 2^64 elements at one address */
    CHECK(!mfai_view_extent(&view, &lowest, &end));
}

static void test_buffers(void) {
    enum { SIZE = 240 };
    mfa_context_t context = NULL;
    mfa_buffer_t buffer = NULL;
    CHECK(mfa_create_context(&context) == MFA_SUCCESS && mfa_create_buffer(context, SIZE, &buffer) == MFA_SUCCESS);
    int fits = 0, reaches_out = 0;
    srand(3);
    for (int round = 0; round < 20000; ++round) {
        const mfai_view_t drawn = random_view();
        unsigned char counts[ARENA];
        int64_t lowest, end;
        count_elements(&drawn, counts, &lowest, &end);
        const int64_t offset = rand() % (SIZE + 20);
        mfa_tensor_t tensor = MFA_TENSOR_INIT;
        tensor.buffer = buffer, tensor.byte_offset = (uint64_t)offset, tensor.precision = MFA_PRECISION_FP16;
        memcpy(tensor.shape, drawn.shape, sizeof tensor.shape);
        memcpy(tensor.stride, drawn.stride, sizeof tensor.stride);
        const bool inside = offset + 2 * lowest >= 0 && offset + 2 * end <= SIZE;
        mfai_view_t view;
        if (!inside) {
            CHECK_FAILS(mfai_view_import("key", context, &tensor, EVERY_FORMAT, &view), MFA_ERROR_INVALID_ARGS,
                        "of a buffer of 240 bytes");
        } else if (offset % 2 == 0) {
            CHECK(mfai_view_import("key", context, &tensor, EVERY_FORMAT, &view) == MFA_SUCCESS);
            CHECK(view.data == (char *)mfa_buffer_contents(buffer) + offset);
        } else {
            CHECK_FAILS(mfai_view_import("key", context, &tensor, EVERY_FORMAT, &view), MFA_ERROR_INVALID_ARGS,
                        "not aligned to its 2-byte elements");
        }
        inside ? ++fits : ++reaches_out;
    }
    CHECK(fits > 500 && reaches_out > 500);
    mfa_destroy_buffer(buffer);
    mfa_destroy_context(context);
}

/* ------------------------------------------------------------------ four bits */

static mfai_view_t random_nibbles(void) {
    mfai_view_t view = random_view();
    view.format = rand() % 2 ? MFA_PRECISION_INT4 : MFA_PRECISION_UINT4;
    view.shape[3] = 1 + rand() % 9;
    view.stride[3] = view.shape[3] > 1;
    for (int axis = 0; axis < 3; ++axis)
        view.stride[axis] -= view.stride[axis] % 2;
    return view;
}

/* How often a row has each byte: elements 2n and 2n + 1 lie in byte n. */
static void count_bytes(const mfai_view_t *view, unsigned char counts[ARENA], int64_t *lowest, int64_t *end) {
    mfai_view_t bytes = *view;
    bytes.shape[3] = (view->shape[3] + 1) / 2;
    for (int axis = 0; axis < 3; ++axis)
        bytes.stride[axis] = view->stride[axis] / 2;
    count_elements(&bytes, counts, lowest, end);
}

static void test_nibbles(void) {
    int injective = 0, shared = 0;
    srand(4);
    for (int round = 0; round < 20000; ++round) {
        const mfai_view_t view = random_nibbles();
        unsigned char counts[ARENA];
        int64_t lowest, end, low, high;
        count_bytes(&view, counts, &lowest, &end);
        CHECK(mfai_view_extent(&view, &low, &high) && low == lowest && high == end);
        bool is_shared = false;
        for (int i = 0; i < ARENA; ++i)
            is_shared |= counts[i] > 1;
        const bool is_injective = mfai_view_expect_injective("codes", &view) == MFA_SUCCESS;
        CHECK(!is_injective || !is_shared);
        injective += is_injective, shared += is_shared;
    }
    CHECK(injective > 500 && shared > 500);
    /* Rows of an odd number of elements, side by side. */
    const mfai_view_t odd = {
        .present = true, .format = MFA_PRECISION_INT4, .shape = {2, 3, 5, 7}, .stride = {120, 40, 8, 1}};
    int64_t lowest, end;
    CHECK(mfai_view_expect_injective("codes", &odd) == MFA_SUCCESS);
    CHECK(mfai_view_row_bytes(&odd) == 4 && mfai_view_extent(&odd, &lowest, &end) && lowest == 0 && end == 120);
    mfai_view_t huge = {
        .present = true, .format = MFA_PRECISION_UINT4, .shape = {1, 1, 1, INT64_MAX}, .stride = {0, 0, 0, 1}};
    CHECK(mfai_view_extent(&huge, &lowest, &end) && end == INT64_MAX / 2 + 1);
    huge.shape[2] = 2;
    CHECK(!mfai_view_extent(&huge, &lowest, &end));
}

static void test_imported_nibbles(void) {
    mfa_context_t context = NULL;
    mfa_buffer_t whole = NULL, cut = NULL;
    CHECK(mfa_create_context(&context) == MFA_SUCCESS);
    CHECK(mfa_create_buffer(context, 60, &whole) == MFA_SUCCESS && mfa_create_buffer(context, 59, &cut) == MFA_SUCCESS);
    enum { CODES = MFAI_CODES };
    mfai_view_t view;
    mfa_tensor_t odd = MFA_TENSOR_INIT;
    odd.precision = MFA_PRECISION_INT4, odd.buffer = whole;
    memcpy(odd.shape, (int64_t[]){1, 3, 5, 7}, sizeof odd.shape);
    memcpy(odd.stride, (int64_t[]){1, 40, 8, 1}, sizeof odd.stride); /* that of one element is never followed */
    CHECK(mfai_view_import("key", context, &odd, CODES, &view) == MFA_SUCCESS && view.stride[0] == 0);
    odd.buffer = cut;
    CHECK_FAILS(mfai_view_import("key", context, &odd, CODES, &view), MFA_ERROR_INVALID_ARGS,
                "key reaches from byte 0 to 60 around offset 0 of a buffer of 59 bytes");
    odd.buffer = whole, odd.byte_offset = 1;
    CHECK_FAILS(mfai_view_import("key", context, &odd, CODES, &view), MFA_ERROR_INVALID_ARGS, "around offset 1 of");
    odd.shape[2] = 4; /* at any byte */
    CHECK(mfai_view_import("key", context, &odd, CODES, &view) == MFA_SUCCESS);
    CHECK(view.data == (char *)mfa_buffer_contents(whole) + 1);
    odd.stride[2] = 7;
    CHECK_FAILS(mfai_view_import("key", context, &odd, CODES, &view), MFA_ERROR_INVALID_ARGS,
                "key.stride[2] is 7, expected an even number, since rows of INT4 begin with a whole byte");
    odd.stride[2] = -7;
    CHECK_FAILS(mfai_view_import("key", context, &odd, CODES, &view), MFA_ERROR_INVALID_ARGS, "key.stride[2] is -7");
    odd.stride[2] = 8, odd.stride[1] = 41, odd.precision = MFA_PRECISION_UINT4;
    CHECK_FAILS(mfai_view_import("key", context, &odd, CODES, &view), MFA_ERROR_INVALID_ARGS,
                "key.stride[1] is 41, expected an even number, since rows of UINT4");
    odd.stride[1] = 40, odd.stride[3] = 2;
    CHECK_FAILS(mfai_view_import("key", context, &odd, CODES, &view), MFA_ERROR_INVALID_ARGS,
                "key.stride[3] is 2, expected 1 for UINT4 elements");
    odd.shape[3] = 1;
    CHECK(mfai_view_import("key", context, &odd, CODES, &view) == MFA_SUCCESS && view.stride[3] == 0);
    mfa_destroy_buffer(whole);
    mfa_destroy_buffer(cut);
    mfa_destroy_context(context);
}

int main(void) {
    test_random();
    test_layouts_of_outputs();
    test_overflow();
    test_buffers();
    test_nibbles();
    test_imported_nibbles();
    return check_report();
}
