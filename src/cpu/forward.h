/* The CPU backend's forward pass. */
#ifndef MFA_CPU_FORWARD_H
#define MFA_CPU_FORWARD_H

#include "cpu/device.h"

mfa_status_t mfai_cpu_forward_plan(const mfai_cpu_device_t *device, const mfai_problem_t *problem, mfa_plan_t *plan);
mfa_status_t mfai_cpu_forward(mfai_cpu_device_t *device, const mfai_problem_t *problem);

#endif
