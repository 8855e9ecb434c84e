#pragma once

#include "mach.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef uint64_t mach_vm_address_t, mach_vm_size_t;

__attribute__((visibility("default"))) kern_return_t mach_vm_region(vm_map_t target, mach_vm_address_t *address,
                                                                    mach_vm_size_t *size, vm_region_flavor_t flavor,
                                                                    vm_region_info_t info,
                                                                    mach_msg_type_number_t *count,
                                                                    mach_port_t *object_name);

#ifdef __cplusplus
}
#endif
