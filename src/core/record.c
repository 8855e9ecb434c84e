#include "core/record.h"

#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

static const mfai_record_t empty;
static mfai_record_t lost = {NAN, "no memory for a message"}; /* the record of a thread that could not have one */

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static bool has_key; /* atomic: threads may still be calling when the process ends */

static void drop(void *record) {
    if (record != &lost)
        free(record);
}

static void make_key(void) { __atomic_store_n(&has_key, pthread_key_create(&key, drop) == 0, __ATOMIC_RELAXED); }

static bool is_open(void) {
    pthread_once(&once, make_key);
    return __atomic_load_n(&has_key, __ATOMIC_RELAXED);
}

mfai_record_t *mfai_record(void) {
    if (!is_open())
        return NULL;
    mfai_record_t *record = pthread_getspecific(key);
    if (record != NULL && record != &lost)
        return record;
    record = calloc(1, sizeof *record);
    if (record != NULL && pthread_setspecific(key, record) == 0)
        return record;
    free(record);
    pthread_setspecific(key, &lost);
    return NULL;
}

const mfai_record_t *mfai_record_look(void) {
    if (!is_open())
        return &lost;
    const mfai_record_t *record = pthread_getspecific(key);
    return record != NULL ? record : &empty;
}

/* When the library is unloaded: no thread that ends later may call `drop`. Threads that live on lose what they have here. */
__attribute__((destructor)) static void delete_key(void) {
    if (!__atomic_exchange_n(&has_key, false, __ATOMIC_RELAXED))
        return;
    drop(pthread_getspecific(key));
    pthread_key_delete(key);
}
