#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* sched_getcpu, pthread_setaffinity_np */
#endif
#include "cpu/placement.h"

#if defined(__linux__)

#include <sched.h>
#include <string.h>

_Static_assert(sizeof(cpu_set_t) == sizeof((mfai_place_t){0}.last), "a place holds a mask");

/* Fails where there are more processors than a mask has bits. */
static bool get_mask(pthread_t thread, cpu_set_t *mask) {
    return pthread_getaffinity_np(thread, sizeof *mask, mask) == 0;
}

static bool set_mask(pthread_t thread, const cpu_set_t *mask) {
    return pthread_setaffinity_np(thread, sizeof *mask, mask) == 0;
}

int mfai_place_here(void) { return sched_getcpu(); }

void mfai_place_sleep(mfai_place_t *place) {
    place->asleep = true;
    place->processor = mfai_place_here();
}

void mfai_place_wake(mfai_place_t *place) {
    place->asleep = false;
    place->knows = false; /* sleep may have been long */
}

void mfai_place_leave(mfai_place_t *place, pthread_t worker, int processor) {
    if (!place->asleep || processor < 0 || place->processor != processor)
        return;
    cpu_set_t mask;
    if (!get_mask(pthread_self(), &mask))
        return;
    CPU_CLR((size_t)processor, &mask);
    if (CPU_COUNT(&mask) > 0 && set_mask(worker, &mask)) {
        place->moved = true;
        place->knows = false;
    }
}

/* Once more after each change, in case the caller's mask was changed between: the worker's may have been too, and must
   not be undone. A few times at most: a cgroup may hold the worker to fewer processors than the caller. */
void mfai_place_follow(mfai_place_t *place, pthread_t worker, pthread_t caller) {
    cpu_set_t callers, own;
    for (int tries = 0; tries < 3; ++tries) {
        if (!get_mask(caller, &callers) || (place->knows && memcmp(place->last, &callers, sizeof callers) == 0))
            break;
        if (!get_mask(worker, &own) || (!CPU_EQUAL(&own, &callers) && !set_mask(worker, &callers)))
            break;
        memcpy(place->last, &callers, sizeof callers);
        place->knows = true;
    }
    place->moved = false;
}

#else

int mfai_place_here(void) { return -1; }
void mfai_place_sleep(mfai_place_t *place) { (void)place; }
void mfai_place_wake(mfai_place_t *place) { (void)place; }
void mfai_place_leave(mfai_place_t *place, pthread_t worker, int processor) {
    (void)place, (void)worker, (void)processor;
}
void mfai_place_follow(mfai_place_t *place, pthread_t worker, pthread_t caller) {
    (void)place, (void)worker, (void)caller;
}

#endif
