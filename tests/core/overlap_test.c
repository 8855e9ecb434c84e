/* The overlap test against a map of every byte, on random views of a small arena. */
#include "core/overlap.h"

#include <stdlib.h>

#include "check.h"

enum { ARENA = 4096 };
static char arena[ARENA] __attribute__((aligned(8)));

static bool mark(const mfai_view_t *view, unsigned char bit, unsigned char *bytes) {
    int64_t element = mfai_view_element(view);
    for (int64_t a = 0; a < view->shape[0]; ++a)
        for (int64_t b = 0; b < view->shape[1]; ++b)
            for (int64_t c = 0; c < view->shape[2]; ++c)
                for (int64_t d = 0; d < view->shape[3]; ++d) {
                    int64_t at = view->data - arena +
                                 element * (a * view->stride[0] + b * view->stride[1] + c * view->stride[2] +
                                            d * view->stride[3]);
                    if (at < 0 || at + element > ARENA)
                        return false;
                    for (int64_t i = 0; i < element; ++i)
                        bytes[at + i] |= bit;
                }
    return true;
}

static mfai_view_t random_view(void) {
    static const int32_t formats[] = {MFA_PRECISION_FP32, MFA_PRECISION_FP16, MFA_PRECISION_BOOL};
    mfai_view_t view = {.present = true, .format = formats[rand() % 3]};
    int64_t element = mfai_view_element(&view);
    view.data = arena + rand() % (ARENA / element) * element;
    for (int axis = 0; axis < 4; ++axis) {
        view.shape[axis] = rand() % 12 == 0 ? 0 : 1 + rand() % 5;
        view.stride[axis] = rand() % 121 - 60;
    }
    return view;
}

static void test_random(void) {
    int overlapping = 0, disjoint = 0;
    srand(1);
    for (int round = 0; round < 40000; ++round) {
        mfai_view_t a = random_view(), b = random_view();
        unsigned char bytes[ARENA] = {0};
        if (!mark(&a, 1, bytes) || !mark(&b, 2, bytes))
            continue;
        bool expected = false;
        for (int i = 0; i < ARENA; ++i)
            expected |= bytes[i] == 3;
        CHECK(mfai_views_overlap(&a, &b) == expected);
        expected ? ++overlapping : ++disjoint;
    }
    CHECK(overlapping > 500 && disjoint > 500);
}

/* Rows of four-bit elements share a byte where its bytes do, though no element may be the same. */
static mfai_view_t random_nibbles(void) {
    mfai_view_t view = random_view();
    view.format = MFA_PRECISION_INT4;
    view.shape[3] = 1 + rand() % 7;
    view.stride[3] = 1;
    for (int axis = 0; axis < 3; ++axis)
        view.stride[axis] -= view.stride[axis] % 2;
    return view;
}

static mfai_view_t in_bytes(mfai_view_t view) {
    view.format = MFA_PRECISION_BOOL;
    view.shape[3] = (view.shape[3] + 1) / 2;
    for (int axis = 0; axis < 3; ++axis)
        view.stride[axis] /= 2;
    return view;
}

static void test_nibbles(void) {
    int overlapping = 0, disjoint = 0;
    srand(2);
    for (int round = 0; round < 40000; ++round) {
        const bool are_both = round % 2;
        const mfai_view_t a = random_nibbles(), b = are_both ? random_nibbles() : random_view();
        const mfai_view_t bytes_of_a = in_bytes(a), bytes_of_b = are_both ? in_bytes(b) : b;
        unsigned char bytes[ARENA] = {0};
        if (!mark(&bytes_of_a, 1, bytes) || !mark(&bytes_of_b, 2, bytes))
            continue;
        bool expected = false;
        for (int i = 0; i < ARENA; ++i)
            expected |= bytes[i] == 3;
        CHECK(mfai_views_overlap(&a, &b) == expected);
        expected ? ++overlapping : ++disjoint;
    }
    CHECK(overlapping > 500 && disjoint > 500);
    /* The high half of a row's last byte belongs to it. */
    mfai_view_t odd = {
        .present = true, .format = MFA_PRECISION_INT4, .data = arena, .shape = {1, 1, 1, 3}, .stride = {0, 0, 0, 1}};
    mfai_view_t next = odd;
    next.data = arena + 1;
    CHECK(mfai_views_overlap(&odd, &next));
    next.data = arena + 2;
    CHECK(!mfai_views_overlap(&odd, &next));
}

/* q, k, v and out interleaved in one tensor (B, N, 4, H, D), at sizes no byte map could hold. */
static void test_packed(void) {
    mfai_view_t views[4];
    const int64_t n = 100003, h = 32, d = 128;
    for (int i = 0; i < 4; ++i)
        views[i] = (mfai_view_t){.present = true,
                                 .format = MFA_PRECISION_FP16,
                                 .data = (char *)4096 + 2 * i * h * d,
                                 .shape = {3, h, n, d},
                                 .stride = {4 * n * h * d, d, 4 * h * d, 1}};
    for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j)
            CHECK(mfai_views_overlap(&views[i], &views[j]) == (i == j));
    views[1].data -= 2;
    CHECK(mfai_views_overlap(&views[0], &views[1]));
}

int main(void) {
    test_random();
    test_nibbles();
    test_packed();
    mfai_view_t absent = {0}, whole = {.present = true,
                                       .format = MFA_PRECISION_BOOL,
                                       .data = arena,
                                       .shape = {1, 1, 1, ARENA},
                                       .stride = {0, 0, 0, 1}};
    CHECK(!mfai_views_overlap(&absent, &whole));
    CHECK(mfai_views_overlap(&whole, &whole));
    return check_report();
}
