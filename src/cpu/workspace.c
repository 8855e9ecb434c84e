#include "cpu/workspace.h"

#include <stdint.h>
#include <stdlib.h>

struct mfai_workspace {
    mfai_workspace_t *next;
    size_t size;
};

enum { HEADER = 64 }; /* keeps the memory behind it aligned to a cache line */

void mfai_workspace_list_init(mfai_workspace_list_t *list) {
    pthread_mutex_init(&list->lock, NULL);
    list->free = NULL;
}

void mfai_workspace_list_trim(mfai_workspace_list_t *list) {
    pthread_mutex_lock(&list->lock);
    mfai_workspace_t *workspace = list->free;
    list->free = NULL;
    pthread_mutex_unlock(&list->lock);
    while (workspace != NULL) {
        mfai_workspace_t *next = workspace->next;
        free(workspace);
        workspace = next;
    }
}

void mfai_workspace_list_close(mfai_workspace_list_t *list) {
    mfai_workspace_list_trim(list);
    pthread_mutex_destroy(&list->lock);
}

mfai_workspace_t *mfai_workspace_take(mfai_workspace_list_t *list, size_t size) {
    pthread_mutex_lock(&list->lock);
    mfai_workspace_t *workspace = list->free;
    if (workspace != NULL)
        list->free = workspace->next;
    pthread_mutex_unlock(&list->lock);
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
    pthread_mutex_lock(&list->lock);
    workspace->next = list->free;
    list->free = workspace;
    pthread_mutex_unlock(&list->lock);
}

char *mfai_workspace_memory(mfai_workspace_t *workspace) { return (char *)workspace + HEADER; }
