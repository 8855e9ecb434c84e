#define _GNU_SOURCE
#include "threadgroup_memory.h"

#include "emulator.h"

#include <string.h>
#include <sys/mman.h>

enum { REDZONE = 2048, ALIGNMENT = 16, MAX_VARIABLES = 256, POISON = 0xff };

static unsigned char *arena;
static size_t used;
static struct {
    size_t start, end;
} variables[MAX_VARIABLES];
static size_t variable_count;

bool emui_threadgroup_memory_begin(void) {
    if (!arena) {
        const size_t mapped = EMUI_THREADGROUP_ARENA + 2 * EMU_PAGE_SIZE;
        char *mapping = mmap(NULL, mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (mapping == MAP_FAILED)
            return false;
        if (mprotect(mapping + EMU_PAGE_SIZE, EMUI_THREADGROUP_ARENA, PROT_READ | PROT_WRITE)) {
            munmap(mapping, mapped);
            return false;
        }
        arena = (unsigned char *)mapping + EMU_PAGE_SIZE;
    }
    used = REDZONE;
    variable_count = 0;
    return true;
}

uintptr_t emui_threadgroup_memory_place(size_t size) {
    const size_t room = (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT + REDZONE;
    if (variable_count == MAX_VARIABLES || room > EMUI_THREADGROUP_ARENA - used)
        return 0;
    variables[variable_count].start = used;
    variables[variable_count++].end = used + size;
    const uintptr_t address = (uintptr_t)arena + used;
    used += room;
    return address;
}

void emui_threadgroup_memory_poison(void) { memset(arena, POISON, used); }

uintptr_t emui_threadgroup_memory_overrun(void) {
    size_t from = 0;
    for (size_t i = 0; i <= variable_count; ++i) {
        const size_t to = i < variable_count ? variables[i].start : used;
        for (size_t byte = from; byte < to; ++byte)
            if (arena[byte] != POISON)
                return (uintptr_t)arena + byte;
        from = i < variable_count ? variables[i].end : used;
    }
    return 0;
}

uintptr_t emui_threadgroup_memory_base(void) { return (uintptr_t)arena; }
