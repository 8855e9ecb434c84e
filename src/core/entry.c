#include "core/entry.h"

#include <pthread.h>

mfai_caller_t mfai_enter(void) {
    mfai_caller_t caller;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &caller.cancellation);
    caller.floats = mfai_float_mode_enter();
    return caller;
}

void mfai_leave(const mfai_caller_t *caller) {
    mfai_float_mode_leave(&caller->floats);
    pthread_setcancelstate(caller->cancellation, NULL);
}
