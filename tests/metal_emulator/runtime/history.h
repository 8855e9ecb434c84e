// Who touched a byte last, to find accesses that nothing orders and data that an earlier pass left behind.
#ifndef METAL_EMULATOR_HISTORY_H
#define METAL_EMULATOR_HISTORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    const void *code;
    uintptr_t address;
    size_t size;
    bool is_write, is_atomic, is_threadgroup_memory;
} emui_access;

typedef struct {
    const char *problem; // NULL: none
    bool stale, unwritten, other_group;
    uintptr_t address;
    const void *other_code; // of the earlier access
    uint32_t other_thread;
} emui_verdict;

// Forgets everything; a new launch begins. False: no memory.
bool emui_history_begin_launch(void);
void emui_history_begin_threadgroup(void);

// Compares with what came before, and remembers the access.
emui_verdict emui_history_record(const emui_access *access);

#endif
