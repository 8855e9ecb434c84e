#if defined(__APPLE__) || !defined(SWIFT_PACKAGE) /* a Swift package compiles every source everywhere */
#include "metal/region.h"

#if defined(__APPLE__)
#include <TargetConditionals.h>
#endif
#include <mach/mach.h>

#if TARGET_OS_IPHONE /* whose SDKs refuse mach_vm.h */
typedef vm_address_t address_t;
typedef vm_size_t length_t;
#define region_of vm_region_64
#else
#include <mach/mach_vm.h>
typedef mach_vm_address_t address_t;
typedef mach_vm_size_t length_t;
#define region_of mach_vm_region
#endif

bool mfai_metal_is_one_region(mfai_metal_pages_t pages) {
    address_t start = pages.start;
    length_t length = 0;
    vm_region_basic_info_data_64_t info;
    mach_msg_type_number_t count = VM_REGION_BASIC_INFO_COUNT_64;
    mach_port_t object = MACH_PORT_NULL;
    /* The first region that ends after `start`, which becomes its own. */
    if (region_of(mach_task_self(), &start, &length, VM_REGION_BASIC_INFO_64, (vm_region_info_t)&info, &count,
                  &object) != KERN_SUCCESS)
        return false;
    const vm_prot_t needed = VM_PROT_READ | VM_PROT_WRITE;
    return start <= pages.start && length >= pages.start - start + pages.length && (info.protection & needed) == needed;
}
#endif
