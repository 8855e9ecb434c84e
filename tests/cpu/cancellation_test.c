/* A thread that is cancelled, or asks for it at any moment, ends between calls and never inside one. */
#include <pthread.h>
#include <time.h>
#include <unistd.h>

#include "calls.h"

enum { ROUNDS = 60 };

static calls_t calls;
static int type, started;

/* Of the library's functions, those that take locks or memory; nothing else, as the asynchronous type demands. */
static void *call_for_ever(void *argument) {
    (void)argument;
    int before;
    pthread_setcanceltype(type, &before);
    __atomic_store_n(&started, 1, __ATOMIC_RELEASE);
    for (;;) {
        call_once(&calls);
        mfa_context_trim(calls.context);
        mfa_buffer_from_ptr(NULL, NULL, 1, NULL); /* a message */
        pthread_testcancel();
    }
    return NULL;
}

static void *create_for_ever(void *argument) {
    (void)argument;
    for (;;) {
        mfa_context_t context = NULL;
        if (mfa_create_context(&context) != MFA_SUCCESS)
            return argument;
        mfa_destroy_context(context);
        pthread_testcancel();
    }
    return NULL;
}

static void *see_state(void *argument) {
    int *state = argument;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
    call_once(&calls);
    pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &state[0]);
    call_once(&calls);
    pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &state[1]);
    return NULL;
}

static void cancel_one(void *(*run)(void *), int round) {
    pthread_t thread;
    started = 0;
    CHECK(pthread_create(&thread, NULL, run, NULL) == 0);
    const struct timespec while_it_runs = {0, (round * 7919) % 600 * 1000};
    while (run == call_for_ever && !__atomic_load_n(&started, __ATOMIC_ACQUIRE))
        nanosleep(&(struct timespec){0, 1000}, NULL);
    nanosleep(&while_it_runs, NULL);
    CHECK(pthread_cancel(thread) == 0);
    void *result = NULL;
    CHECK(pthread_join(thread, &result) == 0 && result == PTHREAD_CANCELED);
    CHECK(call_is_right(&calls));
}

int main(void) {
    alarm(120); /* what is locked for ever ends in a signal */
    calls = open_calls(3);
    static const int types[] = {
        PTHREAD_CANCEL_DEFERRED,
#if !HAS_ADDRESS_SANITIZER && !HAS_THREAD_SANITIZER /* whose own code does not survive it */
        PTHREAD_CANCEL_ASYNCHRONOUS,
#endif
    };
    for (size_t t = 0; t < sizeof types / sizeof *types; ++t) {
        type = types[t];
        for (int round = 0; round < ROUNDS; ++round)
            cancel_one(call_for_ever, round);
    }
    for (int round = 0; round < ROUNDS / 4; ++round)
        cancel_one(create_for_ever, round);
    /* The caller's own state is given back. */
    pthread_t thread;
    int state[2] = {-1, -1};
    CHECK(pthread_create(&thread, NULL, see_state, state) == 0 && pthread_join(thread, NULL) == 0);
    CHECK(state[0] == PTHREAD_CANCEL_DISABLE && state[1] == PTHREAD_CANCEL_ENABLE);
    close_calls(&calls);
    return check_report();
}
