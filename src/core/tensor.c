#include "core/tensor.h"

#include <inttypes.h>
#include <string.h>

#include "core/buffer.h"
#include "core/versioned.h"

bool mfai_view_is_empty(const mfai_view_t *view) {
    return view->shape[0] == 0 || view->shape[1] == 0 || view->shape[2] == 0 || view->shape[3] == 0;
}

mfai_view_t mfai_view_as_bytes(const mfai_view_t *view) {
    mfai_view_t bytes = *view;
    if (mfai_formats[view->format].bits >= 8)
        return bytes;
    bytes.format = MFAI_FORMAT_UINT8;
    bytes.shape[3] = mfai_view_row_bytes(view);
    for (int axis = 0; axis < 3; ++axis)
        bytes.stride[axis] /= 2;
    return bytes;
}

bool mfai_view_extent(const mfai_view_t *elements, int64_t *lowest, int64_t *end) {
    const mfai_view_t bytes = mfai_view_as_bytes(elements), *view = &bytes;
    int64_t element = mfai_view_element(view);
    int64_t low = 0, high = 0, count = 1;
    for (int axis = 0; axis < 4; ++axis) {
        int64_t reach;
        if (__builtin_mul_overflow(count, view->shape[axis] > 0 ? view->shape[axis] : 1, &count) ||
            __builtin_mul_overflow(view->shape[axis] - 1, view->stride[axis], &reach) ||
            __builtin_mul_overflow(reach, element, &reach) ||
            __builtin_add_overflow(reach < 0 ? low : high, reach, reach < 0 ? &low : &high))
            return false;
    }
    *lowest = low;
    return !__builtin_mul_overflow(count, element, &count) && !__builtin_add_overflow(high, element, end);
}

bool mfai_view_is_on_device(const mfai_view_t *view) {
    return view->present && view->buffer != NULL && mfa_buffer_contents(view->buffer) == NULL;
}

static mfa_status_t locate(const char *name, mfa_context_t context, const mfa_tensor_t *tensor, mfai_view_t *view) {
    int64_t lowest = 0, end = 0;
    MFAI_REQUIRE(mfai_view_extent(view, &lowest, &end),
                 "%s: shape (%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64 ") with its strides overflows 64 bits",
                 name, view->shape[0], view->shape[1], view->shape[2], view->shape[3]);
    bool empty = mfai_view_is_empty(view);
    if (tensor->buffer == NULL) {
        MFAI_REQUIRE(tensor->byte_offset == 0, "%s.byte_offset is %" PRIu64 " but %s.buffer is NULL", name,
                     tensor->byte_offset, name);
        MFAI_REQUIRE(empty || tensor->data != NULL, "%s.data and %s.buffer are both NULL", name, name);
        view->data = tensor->data;
    } else {
        MFAI_REQUIRE(tensor->data == NULL, "%s.data and %s.buffer are both set", name, name);
        MFAI_REQUIRE(mfai_buffer_context(tensor->buffer) == context, "%s.buffer belongs to another context", name);
        size_t size = mfa_buffer_size(tensor->buffer);
        uint64_t offset = tensor->byte_offset;
        MFAI_REQUIRE(empty || (offset <= size && 0 - (uint64_t)lowest <= offset && (uint64_t)end <= size - offset),
                     "%s reaches from byte %" PRId64 " to %" PRId64 " around offset %" PRIu64
                     " of a buffer of %zu bytes",
                     name, lowest, end, offset, size);
        view->buffer = tensor->buffer;
        view->data = empty ? NULL : mfai_buffer_memory(tensor->buffer)->base + offset;
    }
    const int64_t element = mfai_format_bytes(view->format, 1);
    MFAI_REQUIRE(empty || (uintptr_t)view->data % (uintptr_t)element == 0,
                 "%s is at address %p, not aligned to its %" PRId64 "-byte elements", name, (void *)view->data,
                 element);
    return MFA_SUCCESS;
}

/* Rows begin with a byte, and their elements lie side by side. */
static mfa_status_t expect_whole_bytes(const char *name, const mfai_view_t *view) {
    MFAI_REQUIRE(view->shape[3] <= 1 || view->stride[3] == 1, "%s.stride[3] is %" PRId64 ", expected 1 for %s elements",
                 name, view->stride[3], mfai_formats[view->format].name);
    for (int axis = 0; axis < 3; ++axis)
        MFAI_REQUIRE(view->stride[axis] % 2 == 0,
                     "%s.stride[%d] is %" PRId64 ", expected an even number, since rows of %s begin with a whole byte",
                     name, axis, view->stride[axis], mfai_formats[view->format].name);
    return MFA_SUCCESS;
}

/* More than all names take. */
enum { MFAI_LONGEST_LIST = 96 };

/* The names of a set of formats, as in "FP16, BF16 or FP32". */
static void list_formats(unsigned formats, char text[MFAI_LONGEST_LIST]) {
    text[0] = '\0';
    for (int format = 0; formats != 0; ++format) {
        if (!(formats & MFAI_FORMAT_BIT(format)))
            continue;
        formats &= ~MFAI_FORMAT_BIT(format);
        if (text[0] != '\0')
            strcat(text, formats != 0 ? ", " : " or ");
        strcat(text, mfai_formats[format].name);
    }
}

mfa_status_t mfai_view_import(const char *name, mfa_context_t context, const mfa_tensor_t *tensor, unsigned formats,
                              mfai_view_t *view) {
    *view = (mfai_view_t){0};
    if (tensor == NULL)
        return MFA_SUCCESS;
    mfa_tensor_t known = MFA_TENSOR_INIT;
    MFAI_TRY(mfai_struct_import(name, tensor, MFAI_TENSOR_FIRST_SIZE, sizeof known, &known));
    view->present = true;
    view->format = known.precision;
    MFAI_REQUIRE(known.precision >= 0 && known.precision <= MFA_PRECISION_UINT4,
                 "%s.precision is %d, not an MFA_PRECISION_...", name, known.precision);
    if (!(formats & MFAI_FORMAT_BIT(known.precision))) {
        char expected[MFAI_LONGEST_LIST];
        list_formats(formats, expected);
        return mfai_fail(MFA_ERROR_INVALID_ARGS, "%s.precision is %s, expected %s", name,
                         mfai_formats[known.precision].name, expected);
    }
    for (int axis = 0; axis < 4; ++axis) {
        MFAI_REQUIRE(known.shape[axis] >= 0, "%s.shape[%d] is %" PRId64 ", expected 0 or more", name, axis,
                     known.shape[axis]);
        view->shape[axis] = known.shape[axis];
        /* The stride of a single element is never followed, so it may be anything. */
        view->stride[axis] = known.shape[axis] > 1 ? known.stride[axis] : 0;
    }
    if (mfai_formats[view->format].bits < 8)
        MFAI_TRY(expect_whole_bytes(name, view));
    return locate(name, context, &known, view);
}

mfa_status_t mfai_view_expect(const char *name, const mfai_view_t *view, const int64_t shape[4], unsigned may_be_one) {
    for (int axis = 0; axis < 4; ++axis)
        MFAI_REQUIRE(view->shape[axis] == shape[axis] || (may_be_one >> axis & 1 && view->shape[axis] == 1),
                     "%s has shape (%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64 "), expected (%" PRId64
                     ", %" PRId64 ", %" PRId64 ", %" PRId64 ")%s",
                     name, view->shape[0], view->shape[1], view->shape[2], view->shape[3], shape[0], shape[1], shape[2],
                     shape[3],
                     may_be_one == 15  ? " or 1 in any place"
                     : may_be_one == 1 ? " or 1 in the first place"
                                       : "");
    return MFA_SUCCESS;
}

mfa_status_t mfai_view_expect_injective(const char *name, const mfai_view_t *view) {
    if (mfai_view_is_empty(view))
        return MFA_SUCCESS;
    int order[4] = {0, 1, 2, 3};
    uint64_t step[4];
    for (int axis = 0; axis < 4; ++axis)
        step[axis] = view->stride[axis] < 0 ? -(uint64_t)view->stride[axis] : (uint64_t)view->stride[axis];
    for (int i = 1; i < 4; ++i)
        for (int j = i; j > 0 && step[order[j]] < step[order[j - 1]]; --j) {
            int swapped = order[j];
            order[j] = order[j - 1];
            order[j - 1] = swapped;
        }
    uint64_t reach = 0;
    for (int i = 0; i < 4; ++i) {
        int axis = order[i];
        if (view->shape[axis] == 1)
            continue;
        MFAI_REQUIRE(step[axis] > reach,
                     "%s: stride %" PRId64
                     " of dimension %d does not exceed the extent of the dimensions inside it, so "
                     "elements of the output would share memory",
                     name, view->stride[axis], axis);
        reach += step[axis] * (uint64_t)(view->shape[axis] - 1);
    }
    return MFA_SUCCESS;
}
