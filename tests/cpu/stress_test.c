/*
 * Everything at once that a process may do to the library: several threads call it, each with contexts of its own width
 * that come and go, while threads are cancelled in the middle of calls, signals arrive, the process forks, its affinity
 * and the callers' floating-point environments change. Every result must have the same bits as the first, made in
 * peace.
 *
 *   stress_test [seconds [without]]    without: letters of what to leave out, of f(orks), s(ignals), c(ancellation),
 *                                      a(ffinity), e(nvironment of floating-point)
 */
#if defined(__linux__)
#define _GNU_SOURCE /* sched_setaffinity */
#endif
#include <errno.h>
#include <fenv.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "mfa.h"
#include "naive.h"

#if defined(__linux__)
#include <dirent.h>
#endif

enum { CALLERS = 3, CASES = 3, H = 2, D = 24, MOST_ROWS = 150 };

/* Rows and keys: whole tiles and tasks for several threads, few rows that share keys, splits of keys. */
static const int sizes[CASES][2] = {{150, 150}, {3, 400}, {1, 2100}};

typedef struct {
    float *query, *key, *value, *dout;               /* read */
    float *out, *logsumexp, *dquery, *dkey, *dvalue; /* what a call in peace has made of them */
} case_t;

static case_t cases[CASES];
static double end_time;
static pthread_key_t is_own; /* not NULL in threads of this program */
static bool with_forks = true, with_signals = true, with_cancellation = true, with_affinity = true,
            with_environment = true;
static int calls, forks, signals, signals_taken, cancellations, moves, foreign, wrong; /* atomic */

static void count(int *counter) { __atomic_add_fetch(counter, 1, __ATOMIC_RELAXED); }

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static void set_blocked(int how, int number) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, number);
    pthread_sigmask(how, &set, NULL);
}

static bool is_over(void) { return now() > end_time; }

static void rest(long microseconds) {
    const struct timespec time = {0, microseconds * 1000};
    nanosleep(&time, NULL);
}

/* Says what went wrong the first time, and ends every part of the program soon. */
static void complain(const char *what) {
    if (__atomic_fetch_add(&wrong, 1, __ATOMIC_RELAXED) == 0)
        fprintf(stderr, "wrong: %s; last message: %s\n", what, mfa_last_error_message(NULL));
}

/* ------------------------------------------------------------------- calls */

static size_t row_bytes(int rows, int columns) { return (size_t)H * (size_t)rows * (size_t)columns * sizeof(float); }

static mfa_tensor_t tensor(float *data, int rows, int columns) {
    mfa_tensor_t t = MFA_TENSOR_INIT;
    t.data = data;
    const int64_t shape[4] = {1, H, rows, columns},
                  stride[4] = {(int64_t)H * rows * columns, (int64_t)rows * columns, columns, 1};
    memcpy(t.shape, shape, sizeof shape);
    memcpy(t.stride, stride, sizeof stride);
    return t;
}

/* Forward and backward of case `which` into `c`'s results. */
static bool call(mfa_context_t context, int which, const case_t *c) {
    const int rows = sizes[which][0], keys = sizes[which][1];
    const mfa_tensor_t query = tensor(c->query, rows, D), key = tensor(c->key, keys, D),
                       value = tensor(c->value, keys, D), out = tensor(c->out, rows, D),
                       logsumexp = tensor(c->logsumexp, rows, 1), dout = tensor(c->dout, rows, D),
                       dquery = tensor(c->dquery, rows, D), dkey = tensor(c->dkey, keys, D),
                       dvalue = tensor(c->dvalue, keys, D);
    mfa_attention_desc_t forward = MFA_ATTENTION_DESC_INIT;
    forward.query = &query, forward.key = &key, forward.value = &value, forward.out = &out,
    forward.logsumexp = &logsumexp;
    forward.flags = MFA_ATTENTION_CAUSAL;
    forward.alignment = MFA_ALIGN_BOTTOM_RIGHT;
    mfa_attention_backward_desc_t backward = MFA_ATTENTION_BACKWARD_DESC_INIT;
    backward.forward = &forward, backward.dout = &dout;
    backward.dquery = &dquery, backward.dkey = &dkey, backward.dvalue = &dvalue;
    return mfa_attention_forward_desc(context, &forward) == MFA_SUCCESS &&
           mfa_attention_backward_desc(context, &backward) == MFA_SUCCESS;
}

static case_t with_results(const case_t *inputs, int which) {
    const int rows = sizes[which][0], keys = sizes[which][1];
    case_t c = *inputs;
    c.out = malloc(row_bytes(rows, D)), c.logsumexp = malloc(row_bytes(rows, 1)), c.dquery = malloc(row_bytes(rows, D));
    c.dkey = malloc(row_bytes(keys, D)), c.dvalue = malloc(row_bytes(keys, D));
    return c;
}

static void free_results(const case_t *c) {
    free(c->out), free(c->logsumexp), free(c->dquery), free(c->dkey), free(c->dvalue);
}

static bool are_equal(const case_t *a, const case_t *b, int which) {
    const int rows = sizes[which][0], keys = sizes[which][1];
    return memcmp(a->out, b->out, row_bytes(rows, D)) == 0 &&
           memcmp(a->logsumexp, b->logsumexp, row_bytes(rows, 1)) == 0 &&
           memcmp(a->dquery, b->dquery, row_bytes(rows, D)) == 0 && memcmp(a->dkey, b->dkey, row_bytes(keys, D)) == 0 &&
           memcmp(a->dvalue, b->dvalue, row_bytes(keys, D)) == 0;
}

static mfa_context_t make_context(int threads) {
    mfa_context_options_t options = MFA_CONTEXT_OPTIONS_INIT;
    options.backend = MFA_BACKEND_CPU;
    options.num_threads = threads;
    mfa_context_t context = NULL;
    if (mfa_create_context_with_options(&options, &context) != MFA_SUCCESS)
        complain("no context");
    return context;
}

/* A context of this width, one call, and a look at the bits. */
static void call_and_compare(int which, int threads) {
    mfa_context_t context = make_context(threads);
    case_t mine = with_results(&cases[which], which);
    if (!call(context, which, &mine))
        complain("a call failed");
    else if (!are_equal(&mine, &cases[which], which))
        complain("other bits");
    free_results(&mine);
    mfa_destroy_context(context);
    count(&calls);
}

/* The same through buffers and a flat call; a message of one's own. */
static void call_buffers(unsigned seed) {
    mfa_context_t context = make_context(2);
    mfa_buffer_t buffers[4] = {NULL}, none = NULL;
    const case_t *c = &cases[0];
    float *memory[3] = {c->query, c->key, c->value};
    for (int i = 0; i < 3; ++i)
        if (mfa_buffer_from_ptr(context, memory[i], row_bytes(sizes[0][1], D), &buffers[i]) != MFA_SUCCESS)
            complain("no buffer");
    if (mfa_create_buffer(context, row_bytes(sizes[0][0], D), &buffers[3]) != MFA_SUCCESS)
        complain("no buffer");
    char expected[64];
    snprintf(expected, sizeof expected, "size_bytes is %u", seed + 1);
    if (mfa_buffer_from_ptr(context, NULL, seed + 1, &none) != MFA_ERROR_INVALID_ARGS ||
        strstr(mfa_last_error_message(NULL), expected) == NULL)
        complain("another thread's message");
    if (mfa_attention_forward(context, buffers[0], buffers[1], buffers[2], buffers[3], 1, 150, 150, H, D, 0.2f, true, 2,
                              2, 2, 0, 0, 0, 0) != MFA_SUCCESS)
        complain("a flat call failed");
    if (seed % 3 == 0 && mfa_context_trim(context) != MFA_SUCCESS)
        complain("trim failed");
    mfa_destroy_context(context); /* which its buffers keep */
    for (int i = 0; i < 4; ++i)
        mfa_destroy_buffer(buffers[i]);
}

/* ------------------------------------------------------------ disturbances */

static void set_environment(unsigned seed) {
    static const int roundings[] = {FE_TONEAREST, FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO};
    if (with_environment)
        fesetround(roundings[seed % 4]);
}

static void *caller(void *argument) {
    unsigned seed = (unsigned)(size_t)argument;
    for (int round = 0; !is_over(); ++round) {
        seed = seed * 1664525u + 1013904223u;
        set_environment(seed >> 8);
        const int rounding = fegetround();
        call_and_compare((int)(seed >> 16) % CASES, 1 + (int)(seed >> 20) % 4);
        if (fegetround() != rounding)
            complain("the caller's rounding direction is changed");
        if (round % 4 == 0)
            call_buffers(seed >> 16);
    }
    fesetround(FE_TONEAREST);
    return NULL;
}

typedef struct {
    mfa_context_t context;
    case_t results;
} victim_t;

static void *be_cancelled(void *argument) {
    const victim_t *victim = argument;
    for (;;) {
        call(victim->context, 0, &victim->results);
        pthread_testcancel();
    }
    return NULL;
}

/* Cancels threads inside calls. The context, the pool and the workspaces must go on serving the others. */
static void *cancel(void *argument) {
    (void)argument;
    set_blocked(SIG_BLOCK, SIGUSR1); /* and so do the threads that it makes */
    while (!is_over()) {
        victim_t victim = {make_context(3), with_results(&cases[0], 0)};
        pthread_t thread;
        if (pthread_create(&thread, NULL, be_cancelled, &victim) != 0)
            complain("no thread");
        rest(rand() % 3000);
        pthread_cancel(thread);
        void *result = NULL;
        pthread_join(thread, &result);
        if (result != PTHREAD_CANCELED)
            complain("a thread was not cancelled");
        if (!call(victim.context, 0, &victim.results) || !are_equal(&victim.results, &cases[0], 0))
            complain("other bits after a cancellation");
        free_results(&victim.results);
        mfa_destroy_context(victim.context);
        count(&cancellations);
    }
    return NULL;
}

/* Runs on a thread of the program, never on a worker, and calls nothing. */
static void handle(int number) {
    (void)number;
    const int before = errno;
    if (pthread_getspecific(is_own) == NULL)
        count(&foreign);
    count(&signals_taken);
    errno = before;
}

/* SIGUSR1 has a handler that a thread of the program must run. SIGUSR2 is blocked by all of them and has none: a worker
   that took it would end the process. */
static void *send_signals(void *argument) {
    (void)argument;
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR2);
    while (!is_over()) {
        kill(getpid(), signals % 2 ? SIGUSR1 : SIGUSR2);
        count(&signals);
        rest(1000);
        sigset_t pending;
        int taken;
        if (sigpending(&pending) == 0 && sigismember(&pending, SIGUSR2))
            sigwait(&blocked, &taken);
    }
    return NULL;
}

/* Takes SIGUSR1 between its first and its last step only. */
static void *own(void *argument) {
    void *(*const *run)(void *) = argument;
    pthread_setspecific(is_own, run);
    set_blocked(SIG_UNBLOCK, SIGUSR1);
    (*run)(NULL);
    set_blocked(SIG_BLOCK, SIGUSR1);
    return NULL;
}

/* The child makes calls of its own while its parent's threads are not there, and has a pool of its own. */
static void *fork_often(void *argument) {
    (void)argument;
    for (unsigned round = 0; !is_over(); ++round) {
        const pid_t child = fork();
        if (child == 0) {
            alarm(60); /* a deadlock ends in a signal */
            end_time = now() + 60;
            for (int which = 0; which < CASES; ++which)
                call_and_compare(which, 1 + (int)(round + (unsigned)which) % 3);
            _exit(wrong != 0);
        }
        int status = -1;
        if (child < 0 || waitpid(child, &status, 0) != child || status != 0) {
            fprintf(stderr, "a child ended with status 0x%x\n", (unsigned)status);
            complain("a child failed");
        }
        count(&forks);
        rest(5000);
    }
    return NULL;
}

/* Narrows and widens every thread of the process, as `taskset --all-tasks` does. */
static void *move(void *argument) {
    (void)argument;
#if defined(__linux__)
    cpu_set_t all;
    if (sched_getaffinity(0, sizeof all, &all) != 0)
        return NULL;
    for (int round = 0; !is_over(); ++round) {
        cpu_set_t set = all;
        for (int processor = 0, left = CPU_COUNT(&all); processor < CPU_SETSIZE && left > 1 && round % 2 == 0;
             ++processor)
            if (CPU_ISSET((size_t)processor, &set) && rand() % 2) {
                CPU_CLR((size_t)processor, &set);
                --left;
            }
        DIR *tasks = opendir("/proc/self/task");
        for (struct dirent *entry; tasks != NULL && (entry = readdir(tasks)) != NULL;)
            if (atoi(entry->d_name) > 0)
                sched_setaffinity(atoi(entry->d_name), sizeof set, &set);
        if (tasks != NULL)
            closedir(tasks);
        count(&moves);
        rest(2000);
    }
    sched_setaffinity(0, sizeof all, &all);
#endif
    return NULL;
}

/* -------------------------------------------------------------------- main */

static void read_arguments(int argc, char **argv) {
    double seconds = argc > 1 ? atof(argv[1]) : 3;
    const char *without = argc > 2 ? argv[2] : "";
#if HAS_THREAD_SANITIZER || (HAS_ADDRESS_SANITIZER && !defined(__clang__))
    /* The first cannot follow a child of several threads; the second's own locks, with gcc, are not free there. */
    without = argc > 2 ? argv[2] : "f";
#endif
    with_forks = strchr(without, 'f') == NULL;
    with_signals = strchr(without, 's') == NULL;
    with_cancellation = strchr(without, 'c') == NULL;
    with_affinity = strchr(without, 'a') == NULL;
    with_environment = strchr(without, 'e') == NULL;
    end_time = now() + seconds;
}

static void call_in_peace(void) {
    mfa_context_t context = make_context(1);
    for (int which = 0; which < CASES; ++which) {
        const int rows = sizes[which][0], keys = sizes[which][1];
        const case_t inputs = {.query = random_floats(H * rows * D),
                               .key = random_floats(H * keys * D),
                               .value = random_floats(H * keys * D),
                               .dout = random_floats(H * rows * D)};
        cases[which] = with_results(&inputs, which);
        CHECK(call(context, which, &cases[which]));
    }
    mfa_destroy_context(context);
}

int main(int argc, char **argv) {
    read_arguments(argc, argv);
    alarm((unsigned)(end_time - now()) + 120); /* a deadlock ends in a signal */
    call_in_peace();
    call_and_compare(0, 4); /* now there are workers, who block nothing that this thread does not */
    pthread_key_create(&is_own, NULL);
    set_blocked(SIG_BLOCK, SIGUSR1);
    set_blocked(SIG_BLOCK, SIGUSR2);
    struct sigaction action = {.sa_handler = handle, .sa_flags = SA_RESTART};
    sigaction(SIGUSR1, &action, NULL);

    static void *(*parts[])(void *) = {caller, caller, caller, cancel, send_signals, fork_often, move};
    const bool wanted[] = {true, true, true, with_cancellation, with_signals, with_forks, with_affinity};
    enum { PARTS = sizeof parts / sizeof *parts };
    pthread_t threads[PARTS];
    for (int i = 0; i < PARTS; ++i)
        CHECK(!wanted[i] || pthread_create(&threads[i], NULL, own, &parts[i]) == 0);
    for (int i = 0; i < PARTS; ++i)
        if (wanted[i])
            pthread_join(threads[i], NULL);

    call_and_compare(0, 3);
    CHECK(wrong == 0);
    CHECK(foreign == 0); /* no handler has run on a thread of the library's */
    CHECK(calls > 0 && (!with_forks || forks > 0) && (!with_cancellation || cancellations > 0));
    CHECK(!with_signals || (signals > 0 && signals_taken > 0));
    printf("%d calls, %d forks, %d signals (%d handled), %d cancellations, %d moves\n", calls, forks, signals,
           signals_taken, cancellations, moves);
    return check_report();
}
