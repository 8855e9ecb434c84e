/* The library's threads take no signal that is meant for the program's. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "calls.h"

static pthread_t handled_by;
static volatile sig_atomic_t handled;

static void note(int signal) {
    (void)signal;
    handled_by = pthread_self();
    handled = 1;
}

static const int sent[] = {SIGUSR1, SIGUSR2, SIGTERM, SIGINT,   SIGHUP,  SIGALRM, SIGPROF, SIGVTALRM,
                           SIGCHLD, SIGIO,   SIGPIPE, SIGWINCH, SIGTSTP, SIGURG,  SIGABRT};

/* Blocked by the program's only thread, for it to fetch. */
static void check_blocked(int number) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, number);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    CHECK(kill(getpid(), number) == 0);
    const struct timespec enough = {5, 0};
    int got;
    do
        got = sigtimedwait(&set, NULL, &enough);
    while (got < 0 && errno == EINTR);
    CHECK(got == number);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

int main(void) {
    /* Whatever mask the thread has whose call makes the pool. */
    sigset_t all, before, after;
    sigfillset(&all);
    calls_t calls = open_calls(3);
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    CHECK(call_is_right(&calls));
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    for (int number = 1; number < NSIG; ++number)
        CHECK(sigismember(&before, number) == sigismember(&after, number));

    for (size_t i = 0; i < sizeof sent / sizeof *sent; ++i)
        check_blocked(sent[i]);

    /* Handlers run on the program's threads, also while these are in a call. */
    struct sigaction action = {.sa_handler = note};
    for (size_t i = 0; i < sizeof sent / sizeof *sent; ++i) {
        sigaction(sent[i], &action, NULL);
        handled = 0;
        CHECK(kill(getpid(), sent[i]) == 0);
        while (!handled)
            CHECK(call_is_right(&calls));
        CHECK(pthread_equal(handled_by, pthread_self()));
    }
    close_calls(&calls);
    return check_report();
}
