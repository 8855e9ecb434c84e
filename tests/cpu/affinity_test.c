/* Workers run where their caller may run now: not where the pool's first caller might, and not where they might before
   somebody narrowed them. */
#define _GNU_SOURCE
#include <dirent.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "calls.h"

#if defined(__linux__)

enum { ROUNDS = 200 };

static calls_t calls;
static cpu_set_t whole, one;

static void bind(pid_t task, const cpu_set_t *mask) { CHECK(sched_setaffinity(task, sizeof *mask, mask) == 0); }

/* Does something for every thread of the process, in descending or ascending order. */
static int for_each_task(bool (*visit)(pid_t task, const cpu_set_t *mask), const cpu_set_t *mask, bool backwards) {
    pid_t tasks[64];
    int count = 0, matches = 0;
    DIR *directory = opendir("/proc/self/task");
    for (struct dirent *entry; directory != NULL && (entry = readdir(directory)) != NULL;)
        if (entry->d_name[0] != '.' && count < 64)
            tasks[count++] = (pid_t)atoi(entry->d_name);
    closedir(directory);
    for (int i = 0; i < count; ++i)
        matches += visit(tasks[backwards ? count - 1 - i : i], mask);
    return count - matches;
}

static bool narrow(pid_t task, const cpu_set_t *mask) { return sched_setaffinity(task, sizeof *mask, mask) == 0; }

static bool has_mask(pid_t task, const cpu_set_t *mask) {
    cpu_set_t present;
    return sched_getaffinity(task, sizeof present, &present) == 0 && CPU_EQUAL(&present, mask);
}

/* A worker may be late for the job; it follows in the next that it joins. */
static bool all_follow(const cpu_set_t *mask) {
    for (int i = 0; i < ROUNDS; ++i) {
        CHECK(call_is_right(&calls));
        if (for_each_task(has_mask, mask, false) == 0)
            return true;
        usleep(1000);
    }
    return false;
}

static void *call_bound(void *argument) {
    (void)argument;
    bind(0, &one);
    CHECK(call_is_right(&calls));
    return NULL;
}

static bool stop, failed;

static void *keep_calling(void *task) {
    __atomic_store_n((pid_t *)task, (pid_t)syscall(SYS_gettid), __ATOMIC_RELEASE);
    while (!__atomic_load_n(&stop, __ATOMIC_ACQUIRE)) {
        failed |= call_once(&calls) != MFA_SUCCESS;
        usleep(100); /* long enough for workers to fall asleep now and then */
    }
    return NULL;
}

/* Narrows all threads while one is in calls. A worker that was narrowed before its caller, and follows that in between,
   is wide until the next call that it joins, and no longer. */
static int count_undone(void) {
    int undone = 0;
    for (int round = 0; round < ROUNDS; ++round) {
        pthread_t thread;
        pid_t caller = 0;
        stop = false;
        CHECK(pthread_create(&thread, NULL, keep_calling, &caller) == 0);
        while (__atomic_load_n(&caller, __ATOMIC_ACQUIRE) == 0)
            sched_yield();
        usleep((useconds_t)(round * 37 % 500));
        CHECK(for_each_task(narrow, &one, round % 2) == 0);
        int looks = 0;
        while (for_each_task(has_mask, &one, false) != 0 && ++looks < 100)
            usleep(1000);
        undone += looks == 100;
        CHECK(for_each_task(narrow, &whole, false) == 0);
        __atomic_store_n(&stop, true, __ATOMIC_RELEASE);
        pthread_join(thread, NULL);
        CHECK(!failed);
    }
    return undone;
}

int main(void) {
    CHECK(sched_getaffinity(0, sizeof whole, &whole) == 0);
    if (CPU_COUNT(&whole) < 2)
        return check_report();
    CPU_ZERO(&one);
    for (size_t cpu = 0; CPU_COUNT(&one) == 0; ++cpu)
        if (CPU_ISSET(cpu, &whole))
            CPU_SET(cpu, &one);
    calls = open_calls(3);

    pthread_t thread; /* the pool is made by a thread that is bound */
    CHECK(pthread_create(&thread, NULL, call_bound, NULL) == 0 && pthread_join(thread, NULL) == 0);
    CHECK(all_follow(&whole));
    bind(0, &one);
    CHECK(all_follow(&one));
    bind(0, &whole);
    CHECK(all_follow(&whole));
    CHECK(for_each_task(narrow, &one, false) == 0); /* from outside; then the program lifts its own thread's */
    bind(0, &whole);
    CHECK(all_follow(&whole));

    const int undone = count_undone();
    CHECK(undone == 0);
    if (undone != 0)
        fprintf(stderr, "%d of %d changes were undone\n", undone, ROUNDS);
    close_calls(&calls);
    return check_report();
}

#else

int main(void) {
    CHECK(true);
    return check_report();
}

#endif
