#include "include/mach/mach.h"

#include <stdio.h>

#include "include/mach/mach_vm.h"

static vm_prot_t protection(const char *text) {
    return (text[0] == 'r' ? VM_PROT_READ : 0) | (text[1] == 'w' ? VM_PROT_WRITE : 0) |
           (text[2] == 'x' ? VM_PROT_EXECUTE : 0);
}

/* The first mapping that ends after *address. */
kern_return_t mach_vm_region(vm_map_t target, mach_vm_address_t *address, mach_vm_size_t *size,
                             vm_region_flavor_t flavor, vm_region_info_t info, mach_msg_type_number_t *count,
                             mach_port_t *object_name) {
    if (target != mach_task_self() || flavor != VM_REGION_BASIC_INFO_64 || *count < VM_REGION_BASIC_INFO_COUNT_64)
        return KERN_INVALID_ARGUMENT;
    FILE *maps = fopen("/proc/self/maps", "r");
    if (maps == NULL)
        return KERN_INVALID_ADDRESS;
    kern_return_t result = KERN_INVALID_ADDRESS;
    char line[512];
    while (result != KERN_SUCCESS && fgets(line, sizeof line, maps)) {
        unsigned long low, high;
        char permissions[5];
        if (sscanf(line, "%lx-%lx %4s", &low, &high, permissions) != 3 || high <= *address)
            continue;
        *address = low;
        *size = high - low;
        *(vm_region_basic_info_data_64_t *)info = (vm_region_basic_info_data_64_t){
            .protection = protection(permissions), .max_protection = VM_PROT_READ | VM_PROT_WRITE | VM_PROT_EXECUTE};
        *count = VM_REGION_BASIC_INFO_COUNT_64;
        *object_name = MACH_PORT_NULL;
        result = KERN_SUCCESS;
    }
    fclose(maps);
    return result;
}
