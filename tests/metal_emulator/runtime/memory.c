#define _GNU_SOURCE
#include "memory.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { ALIGNMENT = 256, RUN = 4 };

typedef struct allocation {
    struct allocation *next;
    char *mapping;
    size_t mapped;
    emui_allocation memory;
} allocation;

typedef struct extent {
    struct extent *next;
    emui_extent range;
} extent;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static allocation *allocations;
static extent *extents;

// A pair of bytes at an even address: NaN as half and bfloat, and so, two of them, as float. Not the NaN that
// arithmetic makes, and without bytes of all ones: what hosts write must not look like it.
static uint16_t pattern(uintptr_t address) {
    const uint32_t mixed = (uint32_t)(address >> 1) * 2654435761u;
    const uint16_t payload = 1 + (mixed >> 16) % 126;
    return 0x7f80 | (payload == 0x40 ? 1 : payload);
}

static bool has_pattern(const char *byte) {
    const uintptr_t address = (uintptr_t)byte;
    return (unsigned char)*byte == (pattern(address & ~(uintptr_t)1) >> 8 * (address & 1) & 0xff);
}

static void fill_pattern(char *start, char *end) {
    for (char *byte = start; byte < end; byte += 2) {
        const uint16_t value = pattern((uintptr_t)byte);
        memcpy(byte, &value, end - byte < 2 ? 1 : 2);
    }
}

void *emu_memory_allocate(size_t length, emu_fill fill) {
    if (length > SIZE_MAX / 2)
        return NULL;
    const size_t used = (length + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    const size_t accessible = used / EMU_PAGE_SIZE * EMU_PAGE_SIZE + EMU_PAGE_SIZE;
    allocation *made = malloc(sizeof *made);
    // Pages have 16 KiB on the device: so that the guards are pages of it, one more for the alignment.
    const size_t mapped = accessible + 3 * EMU_PAGE_SIZE;
    char *mapping = mmap(NULL, mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (!made || mapping == MAP_FAILED) {
        if (mapping != MAP_FAILED)
            munmap(mapping, mapped);
        free(made);
        return NULL;
    }
    char *first = (char *)(((uintptr_t)mapping + 2 * EMU_PAGE_SIZE - 1) & ~(uintptr_t)(EMU_PAGE_SIZE - 1));
    char *end = first + accessible, *start = end - used;
    *made = (allocation){.mapping = mapping, .mapped = mapped, .memory = {first, start, start + length, fill}};
    if (mprotect(first, accessible, PROT_READ | PROT_WRITE)) {
        munmap(mapping, mapped);
        free(made);
        return NULL;
    }
    fill_pattern(first, start);
    fill_pattern(start + (length & ~(size_t)1), end);
    if (fill == EMU_FILL_UNWRITTEN)
        fill_pattern(start, start + length);
    else if (length & 1)
        start[length - 1] = 0;
    pthread_mutex_lock(&lock);
    made->next = allocations;
    allocations = made;
    pthread_mutex_unlock(&lock);
    return start;
}

void emu_memory_free(void *memory) {
    if (!memory)
        return;
    pthread_mutex_lock(&lock);
    allocation **link = &allocations;
    while (*link && (*link)->memory.start != memory)
        link = &(*link)->next;
    allocation *found = *link;
    if (found)
        *link = found->next;
    pthread_mutex_unlock(&lock);
    if (!found)
        abort(); // not an address that emu_memory_allocate returned
    munmap(found->mapping, found->mapped);
    free(found);
}

emui_allocation emui_memory_find(const void *address) {
    emui_allocation result = {0};
    pthread_mutex_lock(&lock);
    for (const allocation *each = allocations; each; each = each->next)
        if ((const char *)address >= each->memory.start && (const char *)address < each->memory.end)
            result = each->memory;
    pthread_mutex_unlock(&lock);
    return result;
}

static bool pair_has_pattern(const emui_allocation *in, const char *pair) {
    return has_pattern(pair) && (pair + 1 == in->end || has_pattern(pair + 1));
}

// Two bytes may be a value that happens to look so; a run of pairs is not. At the ends of a run one byte of the pair
// may be written, so that a read of a single byte wants pairs on both sides.
static bool is_unwritten(const emui_allocation *in, const char *byte, bool alone) {
    const char *pair = byte - ((uintptr_t)byte & 1);
    if (!pair_has_pattern(in, pair))
        return false;
    int left = 0, right = 0;
    const char *at = pair - 2;
    for (; left < RUN && at >= in->start && pair_has_pattern(in, at); at -= 2)
        ++left;
    const bool to_start = at < in->start;
    for (at = pair + 2; right < RUN && at < in->end && pair_has_pattern(in, at); at += 2)
        ++right;
    const bool to_end = at >= in->end;
    if (alone && !((left || to_start) && (right || to_end)))
        return false;
    return left + 1 + right >= RUN || (to_start && to_end);
}

const void *emui_memory_unwritten(const emui_allocation *in, const void *address, size_t size) {
    if (!in->start || in->fill != EMU_FILL_UNWRITTEN)
        return NULL;
    for (const char *byte = address; byte < (const char *)address + size; ++byte)
        if (is_unwritten(in, byte, size == 1))
            return byte;
    return NULL;
}

bool emui_memory_slack_intact(const emui_allocation *around) {
    for (const char *byte = around->first; byte < around->start; ++byte)
        if (!has_pattern(byte))
            return false;
    for (const char *byte = around->end; (uintptr_t)byte % ALIGNMENT; ++byte)
        if (!has_pattern(byte))
            return false;
    return true;
}

void emu_extent_declare(const void *start, size_t length) {
    extent *made = malloc(sizeof *made);
    if (!made)
        abort(); // without it a test would pass that must not
    made->range = (emui_extent){(uintptr_t)start, (uintptr_t)start + length};
    pthread_mutex_lock(&lock);
    made->next = extents;
    extents = made;
    pthread_mutex_unlock(&lock);
}

void emu_extent_withdraw(const void *start) {
    pthread_mutex_lock(&lock);
    extent **link = &extents;
    while (*link && (*link)->range.start != (uintptr_t)start)
        link = &(*link)->next;
    extent *found = *link;
    if (found)
        *link = found->next;
    pthread_mutex_unlock(&lock);
    free(found);
}

size_t emui_memory_extents(const void *start, size_t length, emui_extent *found, size_t limit) {
    const uintptr_t low = (uintptr_t)start, high = low + length;
    size_t count = 0;
    pthread_mutex_lock(&lock);
    for (const extent *each = extents; each && count < limit; each = each->next)
        if (each->range.start < high && each->range.end > low)
            found[count++] = (emui_extent){each->range.start > low ? each->range.start : low,
                                           each->range.end < high ? each->range.end : high};
    pthread_mutex_unlock(&lock);
    return count;
}
