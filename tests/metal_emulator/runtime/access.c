// The checked build's view of memory. The compiler puts a call of ThreadSanitizer's interface before every access; this
// is that interface.
#include "counters.h"
#include "fault.h"
#include "history.h"
#include "launch.h"
#include "region.h"
#include "threadgroup.h"

#include <stdio.h>
#include <string.h>

#define CALLER __builtin_return_address(0)

enum { TEXT = 400, LINE = 160 };

static bool is_between(uintptr_t address, const void *start, const void *end) {
    return address >= (uintptr_t)start && address < (uintptr_t)end;
}

// A thread's own variables, constants of the module, and what the emulator lends to kernels.
static bool is_private(uintptr_t address) {
    return emui_fiber_is_stack((const void *)address) ||
           is_between(address, emui_launch_module.base, emui_launch_module.end) ||
           is_between(address, emui_simdgroups, emui_simdgroups + EMUI_MAX_SIMDGROUPS) ||
           is_between(address, emui_launch_arguments, emui_launch_arguments + EMU_SLOT_COUNT);
}

static const char *thread_text(uint32_t thread, char *text, size_t size) {
    snprintf(text, size, "thread %u (simdgroup %u, lane %u)", thread, thread / EMU_SIMD_WIDTH, thread % EMU_SIMD_WIDTH);
    return text;
}

static void report(emu_fault_kind kind, uintptr_t address, const emui_access *access, const char *ending) {
    char place[TEXT], line[LINE], thread[64];
    emui_region_describe(address, access->size, place, sizeof place);
    emui_fault_raise(kind, "%s %s %s at %s%s", thread_text(emui_self->index, thread, sizeof thread),
                     access->is_write ? "writes" : "reads", place,
                     emui_fault_source_line((const char *)access->code - 1, line, sizeof line), ending);
}

static void report_verdict(const emui_verdict *verdict, const emui_access *access) {
    char ending[TEXT], line[LINE], thread[64];
    emui_fault_source_line((const char *)verdict->other_code - 1, line, sizeof line);
    thread_text(verdict->other_thread, thread, sizeof thread);
    if (verdict->unwritten) {
        report(EMU_FAULT_UNWRITTEN, verdict->address, access, ", which nobody has written");
    } else if (verdict->stale) {
        snprintf(ending, sizeof ending, ", left from an earlier pass of the store at %s", line);
        report(EMU_FAULT_STALE, verdict->address, access, ending);
    } else {
        snprintf(ending, sizeof ending, ", %s at %s by %s%s with nothing to order them", verdict->problem, line, thread,
                 verdict->other_group ? " of another threadgroup" : "");
        report(EMU_FAULT_RACE, verdict->address, access, ending);
    }
}

static void count(const emui_region *region, const emui_access *access) {
    if (region->kind == EMUI_REGION_THREADGROUP) {
        *(access->is_write ? &emui_counters.threadgroup_bytes_stored : &emui_counters.threadgroup_bytes_loaded) +=
            access->size;
        return;
    }
    if (!region->is_constant)
        *(access->is_write ? &emui_counters.device_bytes_stored : &emui_counters.device_bytes_loaded) += access->size;
    (access->is_write ? emui_counters.buffer_bytes_stored : emui_counters.buffer_bytes_loaded)[region->index] +=
        access->size;
}

static void check(const void *address, size_t size, bool is_write, bool is_atomic, const void *code) {
    const uintptr_t start = (uintptr_t)address;
    if (is_private(start))
        return;
    emui_access access = {code, start, size, is_write, is_atomic, false};
    const emui_region *region = emui_region_find(start, size);
    if (!region) {
        report(EMU_FAULT_OUT_OF_BOUNDS, start, &access, "");
        return;
    }
    access.is_threadgroup_memory = region->kind == EMUI_REGION_THREADGROUP;
    if (is_write && region->kind == EMUI_REGION_BYTES)
        report(EMU_FAULT_READ_ONLY, start, &access, ", which setBytes made");
    count(region, &access);
    if (!is_write && emui_memory_unwritten(&region->allocation, address, size)) {
        const void *byte = emui_memory_unwritten(&region->allocation, address, size);
        report(EMU_FAULT_UNWRITTEN, (uintptr_t)byte, &access, ", which nobody has written");
    }
    const emui_verdict verdict = emui_history_record(&access);
    if (verdict.problem)
        report_verdict(&verdict, &access);
}

// ------------------------------------------------------------------ ThreadSanitizer's interface

#pragma GCC visibility push(default)

void __tsan_init(void);
void __tsan_init(void) {}

#define ACCESSES(size)                                                                          \
    void __tsan_read##size(const void *address);                                                \
    void __tsan_read##size(const void *address) { check(address, size, false, false, CALLER); } \
    void __tsan_write##size(const void *address);                                               \
    void __tsan_write##size(const void *address) { check(address, size, true, false, CALLER); }
#define UNALIGNED_ACCESSES(size)                                                                          \
    void __tsan_unaligned_read##size(const void *address);                                                \
    void __tsan_unaligned_read##size(const void *address) { check(address, size, false, false, CALLER); } \
    void __tsan_unaligned_write##size(const void *address);                                               \
    void __tsan_unaligned_write##size(const void *address) { check(address, size, true, false, CALLER); }
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)
UNALIGNED_ACCESSES(2)
UNALIGNED_ACCESSES(4)
UNALIGNED_ACCESSES(8)
UNALIGNED_ACCESSES(16)

void *__tsan_memcpy(void *to, const void *from, size_t size);
void *__tsan_memcpy(void *to, const void *from, size_t size) {
    check(from, size, false, false, CALLER);
    check(to, size, true, false, CALLER);
    return memmove(to, from, size);
}

void *__tsan_memmove(void *to, const void *from, size_t size);
void *__tsan_memmove(void *to, const void *from, size_t size) {
    check(from, size, false, false, CALLER);
    check(to, size, true, false, CALLER);
    return memmove(to, from, size);
}

void *__tsan_memset(void *to, int byte, size_t size);
void *__tsan_memset(void *to, int byte, size_t size) {
    check(to, size, true, false, CALLER);
    return memset(to, byte, size);
}

// Fibers take turns on one thread: plain accesses are atomic among them.
uint32_t __tsan_atomic32_load(const uint32_t *address, int order);
uint32_t __tsan_atomic32_load(const uint32_t *address, int order) {
    (void)order;
    check(address, sizeof *address, false, true, CALLER);
    return *address;
}

void __tsan_atomic32_store(uint32_t *address, uint32_t value, int order);
void __tsan_atomic32_store(uint32_t *address, uint32_t value, int order) {
    (void)order;
    check(address, sizeof *address, true, true, CALLER);
    *address = value;
}

uint32_t __tsan_atomic32_compare_exchange_val(uint32_t *address, uint32_t expected, uint32_t value, int order,
                                              int order_of_failure);
uint32_t __tsan_atomic32_compare_exchange_val(uint32_t *address, uint32_t expected, uint32_t value, int order,
                                              int order_of_failure) {
    (void)order, (void)order_of_failure;
    check(address, sizeof *address, true, true, CALLER);
    const uint32_t old = *address;
    if (old == expected)
        *address = value;
    return old;
}

#pragma GCC visibility pop
