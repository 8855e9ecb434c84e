/* The pool: each task once, from several callers, nested, and after fork. */
#include "cpu/threads.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

enum { TASKS = 1000, WIDTH = 4 };

typedef struct {
    int done[TASKS], busy[WIDTH], slot_clash, bad_slot, nested;
} record;

static void count_nested(void *argument, int64_t task, int slot) {
    (void)task, (void)slot;
    __atomic_add_fetch((int *)argument, 1, __ATOMIC_RELAXED);
}

static void visit(void *argument, int64_t task, int slot) {
    record *r = argument;
    if (slot < 0 || slot >= WIDTH) {
        __atomic_store_n(&r->bad_slot, 1, __ATOMIC_RELAXED);
        return;
    }
    if (__atomic_exchange_n(&r->busy[slot], 1, __ATOMIC_ACQUIRE))
        __atomic_store_n(&r->slot_clash, 1, __ATOMIC_RELAXED);
    __atomic_add_fetch(&r->done[task], 1, __ATOMIC_RELAXED);
    if (task % 100 == 0)
        mfai_parallel_for(WIDTH, 10, count_nested, &r->nested);
    __atomic_store_n(&r->busy[slot], 0, __ATOMIC_RELEASE);
}

static bool run_once(void) {
    record *r = calloc(1, sizeof *r);
    mfai_parallel_for(WIDTH, TASKS, visit, r);
    bool good = !r->bad_slot && !r->slot_clash && r->nested == TASKS / 100 * 10;
    for (int i = 0; i < TASKS; ++i)
        good &= r->done[i] == 1;
    free(r);
    return good;
}

static void *caller(void *argument) {
    int *failures = argument;
    for (int i = 0; i < 50; ++i)
        *failures += !run_once();
    return NULL;
}

int main(void) {
    CHECK(run_once());
    mfai_parallel_for(WIDTH, 0, visit, NULL);

    pthread_t threads[3];
    int failures[3] = {0};
    for (int i = 0; i < 3; ++i)
        CHECK(pthread_create(&threads[i], NULL, caller, &failures[i]) == 0);
    for (int i = 0; i < 3; ++i) {
        pthread_join(threads[i], NULL);
        CHECK(failures[i] == 0);
    }

    pid_t child = fork();
    if (child == 0) {
        alarm(60); /* a deadlock ends in a signal */
        _exit(run_once() && run_once() ? 0 : 1);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(run_once());
    return check_report();
}
