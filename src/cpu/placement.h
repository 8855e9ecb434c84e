/*
 * Linux wakes a sleeping thread where it last ran unless it finds an idle processor, and in guests with few processors it
 * may not look: the worker then queues behind the very caller that woke it, for milliseconds, while another processor
 * idles. So a worker notes where it goes to sleep, a caller who runs there moves it before the wake-up, and the worker,
 * once awake, takes back the affinity mask it had. It is never outside that mask. Elsewhere than on Linux nothing is done.
 */
#ifndef MFA_CPU_PLACEMENT_H
#define MFA_CPU_PLACEMENT_H

#include <pthread.h>
#include <stdbool.h>

typedef struct {
    bool asleep, moved;
    int processor;                                  /* where it went to sleep; negative if unknown */
    unsigned long allowed[1024 / 8 / sizeof(long)]; /* its mask before it was moved, a cpu_set_t */
} mfai_place_t;

/* The processor that the calling thread is on; negative if unknown. */
int mfai_place_here(void);

/* By the worker, before it sleeps and when it woke; by the caller before a wake-up. Under the lock that guards the place. */
void mfai_place_sleep(mfai_place_t *place);
void mfai_place_wake(mfai_place_t *place);
void mfai_place_leave(mfai_place_t *place, pthread_t worker, int processor);

#endif
