#include <stdint.h>
#include <stdio.h>

#include "mapped.h"

bool emu_is_mapped(const void *start, size_t length) {
    FILE *maps = fopen("/proc/self/maps", "r");
    if (!maps)
        return false;
    uintptr_t reached = (uintptr_t)start;
    const uintptr_t end = reached + length;
    char line[512];
    while (reached < end && fgets(line, sizeof line, maps)) {
        uintptr_t low, high;
        char readable;
        if (sscanf(line, "%lx-%lx %c", &low, &high, &readable) != 3 || high <= reached)
            continue;
        if (low > reached || readable != 'r')
            break;
        reached = high;
    }
    fclose(maps);
    return reached >= end;
}
