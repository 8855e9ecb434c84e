#include "cpu/workspace.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>

struct mfai_workspace {
    mfai_workspace_t *next;
    size_t size;
};

enum { HEADER = 64 }; /* keeps the memory behind it aligned to a cache line */

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static void lock(void) { pthread_mutex_lock(&mutex); }
static void unlock(void) { pthread_mutex_unlock(&mutex); }

/* A child must not inherit the lock from a thread that it does not have. */
static void watch_forks(void) { pthread_atfork(lock, unlock, unlock); }

void mfai_workspace_list_trim(mfai_workspace_list_t *list) {
    lock();
    mfai_workspace_t *workspace = list->free;
    list->free = NULL;
    unlock();
    while (workspace != NULL) {
        mfai_workspace_t *next = workspace->next;
        free(workspace);
        workspace = next;
    }
}

mfai_workspace_t *mfai_workspace_take(mfai_workspace_list_t *list, size_t size) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, watch_forks);
    lock();
    mfai_workspace_t *workspace = list->free;
    if (workspace != NULL)
        list->free = workspace->next;
    unlock();
    if (workspace != NULL && workspace->size >= size)
        return workspace;
    /* The list grows with concurrent calls only: one that is too small is replaced. */
    free(workspace);
    if (size > PTRDIFF_MAX - 2 * HEADER)
        return NULL;
    void *memory = NULL;
    if (posix_memalign(&memory, HEADER, HEADER + (size + HEADER - 1) / HEADER * HEADER) != 0)
        return NULL;
    workspace = memory;
    workspace->size = size;
    return workspace;
}

void mfai_workspace_give(mfai_workspace_list_t *list, mfai_workspace_t *workspace) {
    lock();
    workspace->next = list->free;
    list->free = workspace;
    unlock();
}

char *mfai_workspace_memory(mfai_workspace_t *workspace) { return (char *)workspace + HEADER; }
