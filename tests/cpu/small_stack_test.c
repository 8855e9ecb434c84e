/* Calls do with the smallest stack that a thread may have. */
#include <limits.h>
#include <pthread.h>
#include <unistd.h>

#include "calls.h"

static size_t least_stack(void) {
#if HAS_ADDRESS_SANITIZER
    return 1 << 20; /* frames are larger then */
#endif
#if defined(_SC_THREAD_STACK_MIN)
    const long size = sysconf(_SC_THREAD_STACK_MIN);
    if (size > 0)
        return (size_t)size;
#endif
    return PTHREAD_STACK_MIN;
}

static void *create(void *argument) { return mfa_create_context(argument) == MFA_SUCCESS ? argument : NULL; }

static void *call(void *argument) { return call_is_right(argument) ? argument : NULL; }

static void run_on_little(void *(*run)(void *), void *argument) {
    pthread_attr_t attributes;
    pthread_t thread;
    void *result = NULL;
    CHECK(pthread_attr_init(&attributes) == 0);
    CHECK(pthread_attr_setstacksize(&attributes, least_stack()) == 0);
    CHECK(pthread_create(&thread, &attributes, run, argument) == 0 && pthread_join(thread, &result) == 0);
    CHECK(result == argument);
    pthread_attr_destroy(&attributes);
}

int main(void) {
    mfa_context_t context = NULL;
    run_on_little(create, &context);
    mfa_destroy_context(context);
    calls_t calls = open_calls(2);
    run_on_little(call, &calls);
    close_calls(&calls);
    return check_report();
}
