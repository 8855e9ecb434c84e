/*
 * What a thread may ask about its last calls. Not _Thread_local: where the library is dlopened, a thread's first access
 * would allocate, and glibc ends the process if it cannot. Made at the first call that has something to record, freed
 * when the thread ends. Where there is no memory for it, it says so, if the C library can keep that much: glibc
 * allocates for the process's 33rd key and later ones.
 */
#ifndef MFA_CORE_RECORD_H
#define MFA_CORE_RECORD_H

#include <stdarg.h>

typedef struct {
    double seconds;     /* that the last attention call took; 0: there was none; NaN: not kept */
    char message[2048]; /* of the last failure */
} mfai_record_t;

/* The calling thread's. */
const mfai_record_t *mfai_record(void);

void mfai_record_seconds(double seconds);
void mfai_record_failure(const char *format, va_list arguments) __attribute__((format(printf, 1, 0)));

#endif
