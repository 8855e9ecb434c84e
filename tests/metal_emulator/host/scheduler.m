#import <Foundation/Foundation.h>

#include <stdlib.h>

#import "command_buffer.h"
#import "queue.h"
#include "scheduler.h"

pthread_mutex_t emu_scheduler_lock = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t emu_scheduler_changed = PTHREAD_COND_INITIALIZER;

static NSMutableArray *submitted; /* in the order of commits */
static BOOL busy;
static __thread BOOL is_scheduler;

bool emu_scheduler_is_this_thread(void) { return is_scheduler; }

/* A command buffer may run when those enqueued before it on its queue have run. */
static EMUCommandBuffer *take_runnable(void) {
    for (NSUInteger i = 0; i < [submitted count]; ++i) {
        EMUCommandBuffer *candidate = [submitted objectAtIndex:i];
        if ([[candidate emulatedQueue] isNext:candidate]) {
            [candidate retain];
            [submitted removeObjectAtIndex:i];
            return candidate;
        }
    }
    return nil;
}

static void *work(void *unused) {
    GSRegisterCurrentThread();
    is_scheduler = YES;
    pthread_mutex_lock(&emu_scheduler_lock);
    for (;;) {
        EMUCommandBuffer *next = take_runnable();
        busy = next != nil;
        pthread_cond_broadcast(&emu_scheduler_changed);
        if (!next) {
            pthread_cond_wait(&emu_scheduler_changed, &emu_scheduler_lock);
            continue;
        }
        pthread_mutex_unlock(&emu_scheduler_lock);
        @autoreleasepool {
            [next run];
            [next release];
        }
        pthread_mutex_lock(&emu_scheduler_lock);
    }
    return unused;
}

static void start(void) {
    pthread_t thread;
    submitted = [[NSMutableArray alloc] init];
    if (pthread_create(&thread, NULL, work, NULL) != 0)
        abort(); /* as Metal would end a process that can have no thread */
    pthread_detach(thread);
}

void emu_scheduler_submit(EMUCommandBuffer *commandBuffer) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, start);
    [submitted addObject:commandBuffer];
    pthread_cond_broadcast(&emu_scheduler_changed);
}

void emu_scheduler_wait_until_idle(void) {
    if (emu_scheduler_is_this_thread())
        return;
    pthread_mutex_lock(&emu_scheduler_lock);
    while (busy || [submitted count] > 0)
        pthread_cond_wait(&emu_scheduler_changed, &emu_scheduler_lock);
    pthread_mutex_unlock(&emu_scheduler_lock);
}
