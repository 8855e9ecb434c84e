/*
 * Two strided views share a byte if and only if a bounded linear Diophantine equation has a solution:
 *   sum_k step_k * x_k = target, 0 <= x_k <= limit_k,
 * where the terms are the axes of both views and the bytes inside an element. Taking the largest step first
 * leaves few choices for each x_k, since what remains must be reachable by the smaller steps.
 */
#include "core/overlap.h"

enum { MAX_TERMS = 10, MAX_NODES = 100000 };

typedef struct {
    uint64_t step[MAX_TERMS], limit[MAX_TERMS], reach[MAX_TERMS + 1]; /* reach: sum of steps * limits from here on */
    int count, nodes;
} equation;

static bool solve(equation *e, int term, uint64_t target) {
    if (target == 0)
        return true;
    if (target > e->reach[term] || term == e->count)
        return false;
    if (++e->nodes > MAX_NODES)
        return true;
    uint64_t rest = e->reach[term + 1];
    uint64_t low = target <= rest ? 0 : (target - rest + e->step[term] - 1) / e->step[term];
    uint64_t high = target / e->step[term];
    if (high > e->limit[term])
        high = e->limit[term];
    /* From the top down, so that the remainder the smaller steps must make up is small. */
    for (uint64_t x = high + 1; x-- > low;)
        if (solve(e, term + 1, target - x * e->step[term]))
            return true;
    return false;
}

static void add_term(equation *e, uint64_t step, uint64_t limit) {
    if (step == 0 || limit == 0)
        return;
    for (int term = 0; term < e->count; ++term)
        if (e->step[term] == step) { /* x + y over two ranges is one variable over their sum */
            e->limit[term] += limit;
            return;
        }
    int at = e->count++;
    for (; at > 0 && e->step[at - 1] < step; --at) {
        e->step[at] = e->step[at - 1];
        e->limit[at] = e->limit[at - 1];
    }
    e->step[at] = step;
    e->limit[at] = limit;
}

static uint64_t magnitude(int64_t x) { return x < 0 ? 0 - (uint64_t)x : (uint64_t)x; }

/* Adds the view's axes and returns its lowest address. */
static uintptr_t add_view(equation *e, const mfai_view_t *view) {
    int64_t element = mfai_view_element(view);
    uintptr_t lowest = (uintptr_t)view->data;
    for (int axis = 0; axis < 4; ++axis) {
        int64_t step = view->stride[axis] * element;
        uint64_t limit = (uint64_t)view->shape[axis] - 1;
        if (step < 0)
            lowest -= (uintptr_t)(magnitude(step) * limit);
        add_term(e, magnitude(step), limit);
    }
    return lowest;
}

static uint64_t extent(const mfai_view_t *view) {
    int64_t element = mfai_view_element(view);
    uint64_t bytes = (uint64_t)element;
    for (int axis = 0; axis < 4; ++axis) {
        int64_t step = view->stride[axis] * element;
        bytes += magnitude(step) * (uint64_t)(view->shape[axis] - 1);
    }
    return bytes;
}

bool mfai_views_overlap(const mfai_view_t *one, const mfai_view_t *other) {
    if (!one->present || !other->present || mfai_view_is_empty(one) || mfai_view_is_empty(other))
        return false;
    const mfai_view_t bytes_of_one = mfai_view_as_bytes(one), bytes_of_other = mfai_view_as_bytes(other);
    const mfai_view_t *a = &bytes_of_one, *b = &bytes_of_other;
    equation e = {.count = 0};
    uintptr_t low_a = add_view(&e, a), low_b = add_view(&e, b);
    if (low_a >= low_b + extent(b) || low_b >= low_a + extent(a))
        return false;
    /* a's address + i = b's address + j, with a's axes as they are and b's counted down from their ends, so that
       every step is positive: low_a + A + i = low_b + (extent_b - size_b - B) + j, j counted down as well. */
    add_term(&e, 1, (uint64_t)(mfai_view_element(a) + mfai_view_element(b) - 2));
    uint64_t reach = 0;
    for (int term = e.count; term >= 0; --term) {
        if (term < e.count)
            reach += e.step[term] * e.limit[term];
        e.reach[term] = reach;
    }
    /* Not negative, since the ranges meet. */
    return solve(&e, 0, low_b + extent(b) - 1 - low_a);
}
