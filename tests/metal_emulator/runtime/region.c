#include "region.h"

#include <stdio.h>

enum { MAX_REGIONS = 1024 };

static emui_region regions[MAX_REGIONS];
static size_t region_count;
static const emui_region *last_found;
static uintptr_t unbound_start, unbound_end;

void emui_region_begin(const void *unbound, size_t unbound_size) {
    unbound_start = (uintptr_t)unbound;
    unbound_end = unbound_start + unbound_size;
    region_count = 0;
    last_found = NULL;
}

bool emui_region_add(const emui_region *region) {
    if (region_count == MAX_REGIONS)
        return false;
    regions[region_count++] = *region;
    return true;
}

static bool holds(const emui_region *region, uintptr_t address, size_t size) {
    return address >= region->start && address + size <= region->end;
}

const emui_region *emui_region_find(uintptr_t address, size_t size) {
    if (last_found && holds(last_found, address, size))
        return last_found;
    for (size_t i = 0; i < region_count; ++i)
        if (holds(&regions[i], address, size))
            return last_found = &regions[i];
    return NULL;
}

static uintptr_t distance(const emui_region *region, uintptr_t address) {
    if (address < region->start)
        return region->start - address;
    return address >= region->end ? address - region->end : 0;
}

void emui_region_describe(uintptr_t address, size_t size, char *text, size_t text_size) {
    const emui_region *nearest = NULL;
    for (size_t i = 0; i < region_count; ++i)
        if (!nearest || distance(&regions[i], address) < distance(nearest, address))
            nearest = &regions[i];
    if (address >= unbound_start && address < unbound_end) {
        snprintf(text, text_size, "an argument that is not bound, at offset %zu", (size_t)(address - unbound_start));
        return;
    }
    // Further off, a name would only mislead.
    if (!nearest || distance(nearest, address) > (uintptr_t)1 << 30) {
        snprintf(text, text_size, "address 0x%zx, which no argument reaches", (size_t)address);
        return;
    }
    char index[16] = "";
    if (nearest->has_index)
        snprintf(index, sizeof index, " %u", nearest->index);
    static const char *const kinds[] = {"buffer", "bytes", "threadgroup memory"};
    const long long offset = (long long)(address - nearest->origin);
    snprintf(text, text_size, "%s%s '%s' at offset %lld (%zu bytes; it has %zu)", kinds[nearest->kind], index,
             nearest->name, offset, size, (size_t)(nearest->end - nearest->origin));
}
