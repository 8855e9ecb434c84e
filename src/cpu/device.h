/* What a context holds when its backend is the CPU. */
#ifndef MFA_CPU_DEVICE_H
#define MFA_CPU_DEVICE_H

#include "cpu/kernels.h"
#include "cpu/workspace.h"

typedef struct {
    const mfai_cpu_isa_t *isa;
    int num_threads;
    mfai_workspace_list_t workspaces, blocks; /* the latter for the bits of blocks */
} mfai_cpu_device_t;

/* The instance for an MFA_CPU_ISA_..., or what MFA_CPU_ISA and the processor say if it is auto. */
mfa_status_t mfai_cpu_isa_choose(int32_t id, const mfai_cpu_isa_t **isa);

#endif
