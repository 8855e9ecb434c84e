#include "metal/region.h"

#include <mach/mach.h>
#include <mach/mach_vm.h>

bool mfai_metal_is_one_region(mfai_metal_pages_t pages) {
    mach_vm_address_t start = pages.start;
    mach_vm_size_t length = 0;
    vm_region_basic_info_data_64_t info;
    mach_msg_type_number_t count = VM_REGION_BASIC_INFO_COUNT_64;
    mach_port_t object = MACH_PORT_NULL;
    /* The first region that ends after `start`, which becomes its own. */
    if (mach_vm_region(mach_task_self(), &start, &length, VM_REGION_BASIC_INFO_64, (vm_region_info_t)&info, &count,
                       &object) != KERN_SUCCESS)
        return false;
    const vm_prot_t needed = VM_PROT_READ | VM_PROT_WRITE;
    return start <= pages.start && length >= pages.start - start + pages.length && (info.protection & needed) == needed;
}
