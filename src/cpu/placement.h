/*
 * Where workers run, on Linux; elsewhere nothing is done.
 *
 * A worker follows the caller whose job it joins: it takes the affinity mask that this thread has then, so that it
 * keeps neither the mask of who made the pool nor one that was changed since.
 *
 * Linux wakes a sleeping thread where it last ran unless it finds an idle processor, and in guests with few processors
 * it may not look: the worker then queues behind the very caller that woke it, for milliseconds, while another
 * processor idles. So a worker notes where it goes to sleep, and a caller who runs there moves it, within the caller's
 * mask, before the wake-up. It is moved back by following.
 */
#ifndef MFA_CPU_PLACEMENT_H
#define MFA_CPU_PLACEMENT_H

#include <pthread.h>
#include <stdbool.h>

typedef struct {
    bool asleep, moved;
    int processor;                               /* where it went to sleep; negative if unknown */
    bool knows;                                  /* its mask is `last`, unless somebody else has set another */
    unsigned long last[1024 / 8 / sizeof(long)]; /* the mask it last followed, a cpu_set_t */
} mfai_place_t;

/* The processor that the calling thread is on; negative if unknown. */
int mfai_place_here(void);

/* By the worker, before it sleeps and when it woke; by the caller before a wake-up. Under the lock that guards the
   place. */
void mfai_place_sleep(mfai_place_t *place);
void mfai_place_wake(mfai_place_t *place);
void mfai_place_leave(mfai_place_t *place, pthread_t worker, int processor);

/* By the worker while the caller is in its call, or by that caller while the worker sleeps. */
void mfai_place_follow(mfai_place_t *place, pthread_t worker, pthread_t caller);

#endif
