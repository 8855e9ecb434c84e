/* A sleeping thread is moved off the caller's processor, within the caller's mask, and follows the caller's mask
   afterwards. Elsewhere than on Linux nothing is done. */
#define _GNU_SOURCE
#include "cpu/placement.h"

#include <sched.h>

#include "check.h"

#if defined(__linux__)

static bool stop;

static void *wait_until_told(void *argument) {
    (void)argument;
    while (!__atomic_load_n(&stop, __ATOMIC_ACQUIRE))
        sched_yield();
    return NULL;
}

static cpu_set_t affinity_of(pthread_t thread) {
    cpu_set_t mask;
    CPU_ZERO(&mask);
    CHECK(pthread_getaffinity_np(thread, sizeof mask, &mask) == 0);
    return mask;
}

static void set_affinity(pthread_t thread, const cpu_set_t *mask) {
    CHECK(pthread_setaffinity_np(thread, sizeof *mask, mask) == 0);
}

static bool has_mask(pthread_t thread, const cpu_set_t *mask) {
    const cpu_set_t present = affinity_of(thread);
    return CPU_EQUAL(&present, mask);
}

int main(void) {
    const pthread_t self = pthread_self();
    const cpu_set_t whole = affinity_of(self);
    const int here = mfai_place_here();
    CHECK(here >= 0 && CPU_ISSET((size_t)here, &whole));
    pthread_t worker;
    CHECK(pthread_create(&worker, NULL, wait_until_told, NULL) == 0);

    mfai_place_t place = {0};
    mfai_place_leave(&place, worker, here); /* awake: nobody touches it */
    CHECK(!place.moved && has_mask(worker, &whole));

    mfai_place_sleep(&place);
    CHECK(place.asleep && CPU_ISSET((size_t)place.processor, &whole));
    const int processor = place.processor;
    mfai_place_leave(&place, worker, -1);
    mfai_place_leave(&place, worker, processor + 1);
    CHECK(!place.moved && has_mask(worker, &whole));

    cpu_set_t expected = whole;
    CPU_CLR((size_t)processor, &expected);
    for (int turn = 0; turn < 3; ++turn) { /* several times without waking up between */
        mfai_place_leave(&place, worker, processor);
        CHECK(place.moved == (CPU_COUNT(&whole) > 1));
        CHECK(has_mask(worker, place.moved ? &expected : &whole));
        mfai_place_follow(&place, worker, self);
        CHECK(!place.moved && has_mask(worker, &whole));
    }
    mfai_place_wake(&place);
    CHECK(!place.asleep);

    /* It follows into a single processor and out again, and is not moved where that leaves none. */
    cpu_set_t single;
    CPU_ZERO(&single);
    CPU_SET((size_t)mfai_place_here(), &single);
    set_affinity(self, &single);
    mfai_place_follow(&place, worker, self);
    CHECK(has_mask(worker, &single));
    mfai_place_sleep(&place);
    mfai_place_leave(&place, worker, place.processor);
    CHECK(!place.moved && has_mask(worker, &single));
    mfai_place_wake(&place);
    set_affinity(self, &whole);
    mfai_place_follow(&place, worker, self);
    CHECK(has_mask(worker, &whole));

    /* Whatever somebody else has set is replaced after a sleep. */
    set_affinity(worker, &single);
    mfai_place_sleep(&place);
    mfai_place_wake(&place);
    mfai_place_follow(&place, worker, self);
    CHECK(has_mask(worker, &whole));

    __atomic_store_n(&stop, true, __ATOMIC_RELEASE);
    pthread_join(worker, NULL);
    return check_report();
}

#else

int main(void) {
    mfai_place_t place = {0};
    CHECK(mfai_place_here() < 0);
    mfai_place_sleep(&place);
    mfai_place_leave(&place, pthread_self(), 0);
    mfai_place_follow(&place, pthread_self(), pthread_self());
    mfai_place_wake(&place);
    CHECK(!place.asleep && !place.moved && !place.knows);
    return check_report();
}

#endif
