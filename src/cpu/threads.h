/*
 * One pool of threads for the whole process, which contexts share and cannot observe. It grows to the widest call seen
 * and sleeps when idle. If it is busy with another call, the caller does the work alone: results never depend on how
 * many threads took part. After fork the child starts a pool of its own.
 *
 * Workers compute in the library's floating-point mode (core/float_mode.h), as callers do between MFAI_ENTRY and its
 * end. They block every signal but those of faults. They run where the caller whose job it is may run at that time
 * (placement.h). Nice value and scheduling policy are those of the thread whose call made them.
 */
#ifndef MFA_CPU_THREADS_H
#define MFA_CPU_THREADS_H

#include <stdint.h>

enum { MFAI_MOST_THREADS = 1024 };

/* One task; `slot` is below the call's width and belongs to one thread at a time. */
typedef void (*mfai_task_fn)(void *argument, int64_t task, int slot);

/* Runs tasks 0 .. count - 1, each once, on at most `width` threads of which the caller is one; returns when all are
   done. Tasks begin in ascending order, so that one may wait for what a lower one does. */
void mfai_parallel_for(int width, int64_t count, mfai_task_fn run, void *argument);

/* For a task that waits for another, after so many looks: a short pause, and in the end the processor for somebody
   else. */
void mfai_pause(unsigned looks);

#endif
