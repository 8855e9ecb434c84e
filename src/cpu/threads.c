#include "cpu/threads.h"

#include "core/entry.h"
#include "cpu/placement.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>

enum { MAX_WORKERS = MFAI_MOST_THREADS - 1, SPINS = 2000 };

typedef struct {
    pthread_t thread;
    uint64_t seen; /* the last generation it knows of */
    mfai_place_t place;
} worker_t;

static struct {
    pthread_mutex_t caller; /* held by the call that owns the pool */
    pthread_mutex_t lock;   /* guards what follows, except where atomic */
    pthread_cond_t work, idle;
    worker_t workers[MAX_WORKERS];
    int worker_count;
    bool stopping;
    uint64_t generation; /* of the current job; atomic, so that workers can poll it */
    bool open;           /* the job takes more workers */
    int seats, joined, left;
    int64_t next, count; /* next is atomic */
    mfai_task_fn run;
    void *argument;
    pthread_t owner; /* whose job it is */
} pool = {.caller = PTHREAD_MUTEX_INITIALIZER,
          .lock = PTHREAD_MUTEX_INITIALIZER,
          .work = PTHREAD_COND_INITIALIZER,
          .idle = PTHREAD_COND_INITIALIZER};

static void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

void mfai_pause(unsigned looks) {
    if (looks < SPINS)
        relax();
    else
        sched_yield();
}

static void take_tasks(int slot) {
    for (;;) {
        int64_t task = __atomic_fetch_add(&pool.next, 1, __ATOMIC_RELAXED);
        if (task >= pool.count)
            return;
        pool.run(pool.argument, task, slot);
    }
}

/* A short spin first: the next call often follows within microseconds, and waking a sleeper costs more. */
static void wait_for_job(worker_t *self) {
    for (int i = 0; i < SPINS; ++i) {
        if (__atomic_load_n(&pool.generation, __ATOMIC_RELAXED) != self->seen)
            break;
        relax();
    }
    pthread_mutex_lock(&pool.lock);
    while (pool.generation == self->seen && !pool.stopping) {
        mfai_place_sleep(&self->place);
        pthread_cond_wait(&pool.work, &pool.lock);
        mfai_place_wake(&self->place);
    }
}

static void *worker(void *argument) {
    worker_t *self = argument;
    mfai_float_mode_enter(); /* it was born in its creator's */
    for (;;) {
        wait_for_job(self); /* returns with the lock held */
        if (pool.stopping) {
            pthread_mutex_unlock(&pool.lock);
            return NULL;
        }
        self->seen = pool.generation;
        if (!pool.open || pool.joined == pool.seats) {
            pthread_mutex_unlock(&pool.lock);
            continue;
        }
        int slot = ++pool.joined;
        const pthread_t owner = pool.owner;
        pthread_mutex_unlock(&pool.lock);
        mfai_place_follow(&self->place, self->thread, owner);
        take_tasks(slot);
        pthread_mutex_lock(&pool.lock);
        if (++pool.left == pool.joined && !pool.open)
            pthread_cond_signal(&pool.idle);
        pthread_mutex_unlock(&pool.lock);
    }
}

/* The child has the memory of the pool but none of its threads. */
static void reset_in_child(void) {
    pthread_mutex_init(&pool.caller, NULL);
    pthread_mutex_init(&pool.lock, NULL);
    pthread_cond_init(&pool.work, NULL);
    pthread_cond_init(&pool.idle, NULL);
    pool.worker_count = 0;
    pool.open = false;
}

static void watch_forks(void) { pthread_atfork(NULL, NULL, reset_in_child); }

/* Signals are for the program's threads, which may block them all to wait for one. Faults are the exception: they end a
   thread that blocks them, without their handler. */
static void block_signals(sigset_t *before) {
    static const int faults[] = {SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP};
    sigset_t blocked;
    sigfillset(&blocked);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; ++i)
        sigdelset(&blocked, faults[i]);
    pthread_sigmask(SIG_SETMASK, &blocked, before);
}

/* Called with the pool owned and locked. Fewer threads than wanted are not an error: the caller does what they would
   have done. */
static void grow(int wanted) {
    if (wanted > MAX_WORKERS)
        wanted = MAX_WORKERS;
    if (pool.worker_count >= wanted || pool.stopping)
        return;
    sigset_t before;
    block_signals(&before); /* which threads inherit */
    while (pool.worker_count < wanted) {
        worker_t *added = &pool.workers[pool.worker_count];
        *added = (worker_t){.seen = pool.generation};
        if (pthread_create(&added->thread, NULL, worker, added) != 0)
            break;
        ++pool.worker_count;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void run_on_pool(int width, int64_t count, mfai_task_fn run, void *argument) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, watch_forks);
    pthread_mutex_lock(&pool.lock);
    grow(width - 1);
    pool.owner = pthread_self();
    pool.run = run;
    pool.argument = argument;
    pool.count = count;
    pool.next = 0;
    pool.joined = pool.left = 0;
    pool.seats = width - 1;
    pool.open = true;
    __atomic_store_n(&pool.generation, pool.generation + 1, __ATOMIC_RELEASE);
    const int here = mfai_place_here();
    for (int i = 0; i < pool.worker_count; ++i)
        mfai_place_leave(&pool.workers[i].place, pool.workers[i].thread, here);
    pthread_mutex_unlock(&pool.lock);
    pthread_cond_broadcast(&pool.work); /* without the lock, which a thread that wakes needs at once */

    take_tasks(0);

    pthread_mutex_lock(&pool.lock);
    pool.open = false; /* who has not come by now is not needed */
    while (pool.left != pool.joined)
        pthread_cond_wait(&pool.idle, &pool.lock);
    for (int i = 0; i < pool.worker_count; ++i)
        if (pool.workers[i].place.moved) /* and not here in time to follow by itself */
            mfai_place_follow(&pool.workers[i].place, pool.workers[i].thread, pool.owner);
    pthread_mutex_unlock(&pool.lock);
}

void mfai_parallel_for(int width, int64_t count, mfai_task_fn run, void *argument) {
    if (width > count)
        width = (int)count;
    if (width > 1 && pthread_mutex_trylock(&pool.caller) == 0) {
        run_on_pool(width, count, run, argument);
        pthread_mutex_unlock(&pool.caller);
        return;
    }
    for (int64_t task = 0; task < count; ++task)
        run(argument, task, 0);
}

/* So that the library can be unloaded: its code must not be under a sleeping thread. */
__attribute__((destructor)) static void stop_workers(void) {
    MFAI_ENTRY; /* a cancelled thread may be the one that unloads it */
    pthread_mutex_lock(&pool.lock);
    pool.stopping = true;
    const int count = pool.worker_count;
    pool.worker_count = 0;
    pthread_cond_broadcast(&pool.work);
    pthread_mutex_unlock(&pool.lock);
    for (int i = 0; i < count; ++i)
        pthread_join(pool.workers[i].thread, NULL);
}
