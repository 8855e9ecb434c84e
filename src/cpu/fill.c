#include "cpu/fill.h"

#include <math.h>
#include <string.h>

#include "core/integers.h"
#include "cpu/threads.h"

enum { TASK_ROWS = 64 };

static void fill_row(const mfai_view_t *view, char *row, float with) {
    const int64_t size = mfai_view_element(view), columns = view->shape[3];
    if (with != 0)
        for (int64_t c = 0; c < columns; ++c)
            memcpy(row + c * view->stride[3] * size, &with, sizeof with);
    else if (mfai_rows_are_contiguous(view))
        memset(row, 0, (size_t)(columns * size));
    else
        for (int64_t c = 0; c < columns; ++c)
            memset(row + c * view->stride[3] * size, 0, (size_t)size);
}

typedef struct {
    const mfai_view_t *view;
    float with; /* 0, or of an operand of floats */
} job_t;

static void fill_task(void *argument, int64_t task, int slot) {
    (void)slot;
    const job_t *job = argument;
    const mfai_view_t *view = job->view;
    const int64_t rows = view->shape[0] * view->shape[1] * view->shape[2];
    for (int64_t i = task * TASK_ROWS; i < rows && i < (task + 1) * TASK_ROWS; ++i) {
        const int64_t row = i % view->shape[2], head = i / view->shape[2] % view->shape[1];
        const int64_t batch = i / view->shape[2] / view->shape[1];
        const int64_t element = batch * view->stride[0] + head * view->stride[1] + row * view->stride[2];
        fill_row(view, view->data + element * mfai_view_element(view), job->with);
    }
}

static void fill(const mfai_view_t *view, float with, int width) {
    job_t job = {view, with};
    if (view->present)
        mfai_parallel_for(width, mfai_ceil_div(view->shape[0] * view->shape[1] * view->shape[2], TASK_ROWS), fill_task,
                          &job);
}

void mfai_cpu_fill(const mfai_problem_t *p, int width) {
    if (p->lengths == NULL)
        return;
    int64_t queries = 0, keys = 0;
    for (int64_t b = 0; b < p->batch; ++b) {
        queries += p->lengths[b].queries;
        keys += p->lengths[b].keys;
    }
    /* No row of a result belongs to two sequences. */
    if (queries < p->query.shape[0] * p->query.shape[2]) {
        if (p->pass == MFAI_FORWARD) {
            fill(&p->out, 0, width);
            fill(&p->logsumexp, -INFINITY, width);
        }
        fill(&p->dquery, 0, width);
        if (p->out.present)
            fill(&p->delta, 0, width);
    }
    if (keys < p->key.shape[0] * p->key.shape[2]) {
        fill(&p->dkey, 0, width);
        fill(&p->dvalue, 0, width);
    }
}
