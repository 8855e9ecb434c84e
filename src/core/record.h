/*
 * What a thread may ask about its last calls. Not _Thread_local: where the library is dlopened, a thread's first access would
 * allocate, and glibc ends the process if it cannot.
 */
#ifndef MFA_CORE_RECORD_H
#define MFA_CORE_RECORD_H

typedef struct {
    double seconds;     /* that the last attention call took */
    char message[2048]; /* of the last failure */
} mfai_record_t;

/* The calling thread's, made at the first use and freed when the thread ends; NULL if there is no memory for it, which
   mfai_record_look then says. */
mfai_record_t *mfai_record(void);

/* Likewise, but to read, and makes none. */
const mfai_record_t *mfai_record_look(void);

#endif
