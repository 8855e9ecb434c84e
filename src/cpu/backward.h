/* The CPU backend's backward pass. */
#ifndef MFA_CPU_BACKWARD_H
#define MFA_CPU_BACKWARD_H

#include "cpu/device.h"

mfa_status_t mfai_cpu_backward_plan(const mfai_cpu_device_t *device, const mfai_problem_t *problem, mfa_plan_t *plan);
mfa_status_t mfai_cpu_backward(mfai_cpu_device_t *device, const mfai_problem_t *problem);

#endif
