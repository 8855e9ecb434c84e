/* One thread runs the committed command buffers of all queues, each queue's in the order in which they were
   enqueued. */
#ifndef METAL_EMULATOR_SCHEDULER_H
#define METAL_EMULATOR_SCHEDULER_H

#include <pthread.h>
#include <stdbool.h>

/* Guards the state of every queue and command buffer; the condition is signalled when any of it changes. */
extern pthread_mutex_t emu_scheduler_lock;
extern pthread_cond_t emu_scheduler_changed;

/* True in a command buffer's handler, and wherever else the thread that runs command buffers is. */
bool emu_scheduler_is_this_thread(void);

/* Returns when nothing committed is left to run and nothing that has run is still held. */
void emu_scheduler_wait_until_idle(void);

#ifdef __OBJC__
@class EMUCommandBuffer;
/* To be called with the lock held. The scheduler keeps the command buffer until its last handler has returned. */
void emu_scheduler_submit(EMUCommandBuffer *commandBuffer);
#endif

#endif
