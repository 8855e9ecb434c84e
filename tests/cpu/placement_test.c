/* A sleeping thread is moved off the caller's processor, within its mask, and takes its mask back when it wakes. */
#define _GNU_SOURCE
#include "cpu/placement.h"

#include <sched.h>

#include "check.h"

static cpu_set_t affinity(void) {
    cpu_set_t mask;
    CPU_ZERO(&mask);
    CHECK(pthread_getaffinity_np(pthread_self(), sizeof mask, &mask) == 0);
    return mask;
}

int main(void) {
    const cpu_set_t whole = affinity();
    const int here = mfai_place_here();
    CHECK(here >= 0 && CPU_ISSET((size_t)here, &whole));

    mfai_place_t place = {0};
    mfai_place_leave(&place, pthread_self(), here); /* awake: nobody touches it */
    CHECK(!place.moved);

    mfai_place_sleep(&place);
    CHECK(place.asleep && CPU_ISSET((size_t)place.processor, &whole));
    mfai_place_leave(&place, pthread_self(), -1);
    mfai_place_leave(&place, pthread_self(), place.processor + 1);
    CHECK(!place.moved);
    mfai_place_leave(&place, pthread_self(), place.processor);
    cpu_set_t narrowed = affinity(), expected = whole;
    CHECK(place.moved == (CPU_COUNT(&whole) > 1));
    if (place.moved) {
        CPU_CLR((size_t)place.processor, &expected);
        CHECK(CPU_EQUAL(&narrowed, &expected));
        CHECK(mfai_place_here() != place.processor);
    }
    mfai_place_wake(&place);
    const cpu_set_t restored = affinity();
    CHECK(CPU_EQUAL(&restored, &whole));
    CHECK(!place.asleep && !place.moved);

    /* With a single processor in its mask it stays. */
    cpu_set_t single;
    CPU_ZERO(&single);
    CPU_SET((size_t)mfai_place_here(), &single);
    CHECK(pthread_setaffinity_np(pthread_self(), sizeof single, &single) == 0);
    mfai_place_sleep(&place);
    mfai_place_leave(&place, pthread_self(), place.processor);
    const cpu_set_t kept = affinity();
    CHECK(!place.moved && CPU_EQUAL(&kept, &single));
    return check_report();
}
