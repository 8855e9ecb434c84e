/* The little of macOS's Mach interface that tells one region of memory from another, over Linux's list of mappings. */
#pragma once

#include <stdint.h>

typedef int kern_return_t;
typedef uint32_t mach_port_t, vm_map_t, mach_msg_type_number_t;
typedef int vm_prot_t, vm_region_flavor_t;
typedef int *vm_region_info_t;

#define KERN_SUCCESS 0
#define KERN_INVALID_ADDRESS 1
#define KERN_INVALID_ARGUMENT 4
#define MACH_PORT_NULL 0
#define VM_PROT_READ 1
#define VM_PROT_WRITE 2
#define VM_PROT_EXECUTE 4
#define VM_REGION_BASIC_INFO_64 9

typedef struct {
    vm_prot_t protection;
    vm_prot_t max_protection;
    uint32_t inheritance;
    uint32_t shared;
    uint32_t reserved;
    uint64_t offset;
    int behavior;
    unsigned short user_wired_count;
} __attribute__((packed, aligned(4))) vm_region_basic_info_data_64_t;

#define VM_REGION_BASIC_INFO_COUNT_64 ((mach_msg_type_number_t)(sizeof(vm_region_basic_info_data_64_t) / sizeof(int)))

static inline mach_port_t mach_task_self(void) { return 1; }
