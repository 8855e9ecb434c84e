/* Counts failed checks and goes on, so that one run shows them all. A test program ends with `return
   check_report();`. */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <string.h>

/* Which sanitizer a test is compiled with: gcc says it by macros, clang by features. */
#if defined(__has_feature)
#define HAS_FEATURE(name) __has_feature(name)
#else
#define HAS_FEATURE(name) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || HAS_FEATURE(address_sanitizer)
#define HAS_ADDRESS_SANITIZER 1
#else
#define HAS_ADDRESS_SANITIZER 0
#endif
#if defined(__SANITIZE_THREAD__) || HAS_FEATURE(thread_sanitizer)
#define HAS_THREAD_SANITIZER 1
#else
#define HAS_THREAD_SANITIZER 0
#endif

static int checks_made, checks_failed;

#define CHECK(condition)                                                            \
    do {                                                                            \
        ++checks_made;                                                              \
        if (!(condition)) {                                                         \
            ++checks_failed;                                                        \
            fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition); \
        }                                                                           \
    } while (0)

/* The call fails with `status` and its message contains `fragment`. */
#define CHECK_FAILS(call, expected, fragment)                                                                    \
    do {                                                                                                         \
        mfa_status_t check_status = (call);                                                                      \
        const char *check_message = mfa_last_error_message(NULL);                                                \
        ++checks_made;                                                                                           \
        if (check_status != (expected) || strstr(check_message, fragment) == NULL) {                             \
            ++checks_failed;                                                                                     \
            fprintf(stderr, "%s:%d: %s gave status %d, \"%s\"; expected %d, \"...%s...\"\n", __FILE__, __LINE__, \
                    #call, check_status, check_message, expected, fragment);                                     \
        }                                                                                                        \
    } while (0)

static inline int check_report(void) {
    printf("%d checks, %d failed\n", checks_made, checks_failed);
    return checks_failed != 0 || checks_made == 0;
}

#endif
