/* The library's threads take no signal that is meant for the program's. */
#include <pthread.h>
#include <signal.h>
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

/* By default, somewhere; and then they need not stay pending where they are blocked, unless they have a handler. The
   others have none at first: a worker that took one would end the process. */
static const int ignored[] = {SIGCHLD, SIGIO, SIGWINCH, SIGURG};

/* Blocked by the program's only thread, for it to fetch after a call in which workers could have taken it. */
static void check_blocked(int number, const calls_t *calls) {
    sigset_t set, pending;
    sigemptyset(&set);
    sigaddset(&set, number);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    CHECK(kill(getpid(), number) == 0);
    CHECK(call_is_right(calls));
    int got = 0;
    CHECK(sigpending(&pending) == 0 && sigismember(&pending, number) == 1);
    if (sigismember(&pending, number) == 1)
        CHECK(sigwait(&set, &got) == 0 && got == number);
    CHECK(!handled);
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

    struct sigaction action = {.sa_handler = note};
    for (size_t i = 0; i < sizeof ignored / sizeof *ignored; ++i)
        CHECK(sigaction(ignored[i], &action, NULL) == 0);
    for (size_t i = 0; i < sizeof sent / sizeof *sent; ++i)
        check_blocked(sent[i], &calls);

    /* Handlers run on the program's threads, also while these are in a call. */
    for (size_t i = 0; i < sizeof sent / sizeof *sent; ++i) {
        CHECK(sigaction(sent[i], &action, NULL) == 0);
        handled = 0;
        CHECK(kill(getpid(), sent[i]) == 0);
        while (!handled)
            CHECK(call_is_right(&calls));
        CHECK(pthread_equal(handled_by, pthread_self()));
    }
    close_calls(&calls);
    return check_report();
}
