/* Quantising a tensor: sizes the work and runs its tasks. */
#ifndef MFA_CPU_QUANTISE_H
#define MFA_CPU_QUANTISE_H

#include "cpu/device.h"

mfa_status_t mfai_cpu_quantise(mfai_cpu_device_t *device, const mfai_quantize_t *call);

#endif
