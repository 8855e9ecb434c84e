#include "core/record.h"

#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

static const mfai_record_t empty;

/* The records of threads that could not have one of their own. */
static mfai_record_t without_time = {.seconds = NAN};
static mfai_record_t without_message = {NAN, "no memory for a message"};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static enum { NONE, OPEN, CLOSED } state; /* of the key; atomic: threads may still be calling when the process ends */

static bool is_own(const mfai_record_t *record) {
    return record != NULL && record != &without_time && record != &without_message;
}

static void drop(void *record) {
    if (is_own(record))
        free(record);
}

static void make_key(void) {
    if (pthread_key_create(&key, drop) == 0)
        __atomic_store_n(&state, OPEN, __ATOMIC_RELAXED);
}

static bool is_open(void) {
    pthread_once(&once, make_key);
    return __atomic_load_n(&state, __ATOMIC_RELAXED) == OPEN;
}

const mfai_record_t *mfai_record(void) {
    if (!is_open())
        return __atomic_load_n(&state, __ATOMIC_RELAXED) == CLOSED ? &empty : &without_message;
    const mfai_record_t *record = pthread_getspecific(key);
    return record != NULL ? record : &empty;
}

/* The thread's own; NULL if there is no memory for it. */
static mfai_record_t *make(void) {
    if (!is_open())
        return NULL;
    mfai_record_t *record = pthread_getspecific(key);
    if (is_own(record))
        return record;
    record = calloc(1, sizeof *record);
    if (record != NULL && pthread_setspecific(key, record) == 0)
        return record;
    free(record);
    return NULL;
}

void mfai_record_seconds(double seconds) {
    mfai_record_t *record = make();
    if (record != NULL)
        record->seconds = seconds;
    else if (mfai_record() != &without_message)
        pthread_setspecific(key, &without_time);
}

void mfai_record_failure(const char *format, va_list arguments) {
    mfai_record_t *record = make();
    if (record != NULL)
        vsnprintf(record->message, sizeof record->message, format, arguments);
    else if (mfai_record() != &without_message)
        pthread_setspecific(key, &without_message);
}

/* When the library is unloaded or the process ends: no thread that ends later may call `drop`. What threads that live
   on have here is lost, not freed: they may still hold their message. */
__attribute__((destructor)) static void delete_key(void) {
    if (__atomic_exchange_n(&state, CLOSED, __ATOMIC_RELAXED) == OPEN)
        pthread_key_delete(key);
}
