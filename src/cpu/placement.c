#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* sched_getcpu, pthread_setaffinity_np */
#endif
#include "cpu/placement.h"

#if defined(__linux__)

#include <sched.h>
#include <string.h>

_Static_assert(sizeof(cpu_set_t) == sizeof((mfai_place_t){0}.allowed), "a place holds a mask");

int mfai_place_here(void) { return sched_getcpu(); }

void mfai_place_sleep(mfai_place_t *place) {
    place->asleep = true;
    place->processor = mfai_place_here();
}

void mfai_place_wake(mfai_place_t *place) {
    place->asleep = false;
    if (!place->moved)
        return;
    cpu_set_t allowed;
    memcpy(&allowed, place->allowed, sizeof allowed);
    pthread_setaffinity_np(pthread_self(), sizeof allowed, &allowed);
    place->moved = false;
}

void mfai_place_leave(mfai_place_t *place, pthread_t worker, int processor) {
    if (!place->asleep || place->moved || processor < 0 || place->processor != processor)
        return;
    cpu_set_t allowed;
    if (pthread_getaffinity_np(worker, sizeof allowed, &allowed) != 0)
        return; /* more processors than the mask has bits */
    memcpy(place->allowed, &allowed, sizeof allowed);
    CPU_CLR((size_t)processor, &allowed);
    place->moved = CPU_COUNT(&allowed) > 0 && pthread_setaffinity_np(worker, sizeof allowed, &allowed) == 0;
}

#else

int mfai_place_here(void) { return -1; }
void mfai_place_sleep(mfai_place_t *place) { (void)place; }
void mfai_place_wake(mfai_place_t *place) { (void)place; }
void mfai_place_leave(mfai_place_t *place, pthread_t worker, int processor) {
    (void)place, (void)worker, (void)processor;
}

#endif
