/* Scratch memory that a device keeps between calls. */
#ifndef MFA_CPU_WORKSPACE_H
#define MFA_CPU_WORKSPACE_H

#include <stddef.h>

typedef struct mfai_workspace mfai_workspace_t;

/* Starts empty, as zeros. One lock of the process guards all lists, so that fork can keep them whole. */
typedef struct {
    mfai_workspace_t *free;
} mfai_workspace_list_t;

void mfai_workspace_list_trim(mfai_workspace_list_t *list);

/* At least `size` bytes aligned to 64, contents undefined; NULL if there is no memory. */
mfai_workspace_t *mfai_workspace_take(mfai_workspace_list_t *list, size_t size);
void mfai_workspace_give(mfai_workspace_list_t *list, mfai_workspace_t *workspace);
char *mfai_workspace_memory(mfai_workspace_t *workspace);

#endif
