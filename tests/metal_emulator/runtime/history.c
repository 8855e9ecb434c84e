#include "history.h"

#include "fault.h"
#include "launch.h"
#include "threadgroup.h"
#include "threadgroup_memory.h"

#include <stdlib.h>
#include <string.h>

// Times are counts of barriers: `threadgroup` of those of the whole threadgroup, `simdgroup` of the simdgroup's own.
// Everything before a threadgroup's barrier comes before everything after it.
typedef enum { ONE_THREAD, ONE_SIMDGROUP, WHOLE_GROUP } spread;

typedef struct {
    uint32_t group; // the number of the threadgroup's run; smaller than the launch's first: nothing known
    uint32_t code;  // offset into the module
    uint32_t threadgroup : 28, spread : 2, many_groups : 1, atomic : 1;
    uint32_t simdgroup : 22, thread : 10;
} touch;

enum { THREADGROUP_CLOCK, SIMDGROUP_CLOCK, CLOCK_COUNT };
enum { NEVER = UINT32_MAX };

typedef struct {
    touch write, read;
    uint32_t first_read[CLOCK_COUNT]; // since the write; for threadgroup memory only
} cell;

// ------------------------------------------------------------------ cells of bytes

enum { PAGE_BITS = 10, PAGE_BYTES = 1 << PAGE_BITS, KEPT_PAGES = 4096 };

typedef struct {
    uintptr_t number;
    cell *cells;
} page;

static cell *threadgroup_cells; // of the whole arena
static page *pages;             // a hash table of device memory's
static size_t page_count, page_room;
static page last_page;
static uint32_t group, first_group = 1;

static page *page_slot(page *table, size_t room, uintptr_t number) {
    size_t place = (number * 0x9e3779b97f4a7c15u >> 20) & (room - 1);
    while (table[place].cells && table[place].number != number)
        place = (place + 1) & (room - 1);
    return &table[place];
}

static void *allocated(void *memory) {
    if (!memory)
        emui_fault_raise(EMU_FAULT_TRAP, "the emulator has no memory left to watch accesses with");
    return memory;
}

static void grow_pages(void) {
    const size_t room = page_room ? 2 * page_room : 256;
    page *table = allocated(calloc(room, sizeof *table));
    for (size_t i = 0; i < page_room; ++i)
        if (pages[i].cells)
            *page_slot(table, room, pages[i].number) = pages[i];
    free(pages);
    pages = table;
    page_room = room;
}

static cell *device_cell(uintptr_t address) {
    const uintptr_t number = address >> PAGE_BITS;
    if (!last_page.cells || last_page.number != number) {
        if (2 * page_count >= page_room)
            grow_pages();
        page *slot = page_slot(pages, page_room, number);
        if (!slot->cells) {
            *slot = (page){number, allocated(calloc(PAGE_BYTES, sizeof(cell)))};
            ++page_count;
        }
        last_page = *slot;
    }
    return &last_page.cells[address & (PAGE_BYTES - 1)];
}

static void forget_device_memory(void) {
    for (size_t i = 0; i < page_room; ++i)
        free(pages[i].cells);
    free(pages);
    pages = NULL;
    page_count = page_room = 0;
    last_page = (page){0};
}

// ------------------------------------------------------------------ tiles and what is left of them

// Bytes that one store wrote between two barriers are a tile. Once it was read, and some of it was overwritten since,
// what was not overwritten is a leftover: the tail of the next tile, which nobody filled.
// There are two clocks: barriers of the threadgroup, for tiles that it fills together, and all barriers of a simdgroup,
// for tiles that it keeps to itself.
typedef struct {
    uint32_t code, group, time, owner;
    uint32_t overwritten, overwritten_before; // the two latest times
} tile;

enum { TILE_COUNT = 1 << 14, NO_OWNER = EMUI_MAX_SIMDGROUPS };
static tile tiles[TILE_COUNT];

static uint32_t clock_of(const touch *at, int clock) {
    return clock == THREADGROUP_CLOCK ? at->threadgroup : at->threadgroup + at->simdgroup;
}

static uint32_t simdgroup_of(const touch *at) { return at->thread / EMU_SIMD_WIDTH; }

// The tile that this write belongs to; NULL if it is not known and need not be, or the table is full.
static tile *find_tile(const touch *write, int clock, bool make) {
    const uint32_t time = clock_of(write, clock);
    const uint32_t owner = clock == THREADGROUP_CLOCK ? NO_OWNER : simdgroup_of(write);
    size_t place = ((write->code * 31u + time) * 31u + owner) * 2654435761u % TILE_COUNT;
    for (size_t tries = 0; tries < TILE_COUNT; ++tries, place = (place + 1) % TILE_COUNT) {
        tile *found = &tiles[place];
        if (found->group != group) {
            if (!make)
                return NULL;
            *found = (tile){write->code, group, time, owner, NEVER, NEVER};
        }
        if (found->code == write->code && found->time == time && found->owner == owner)
            return found;
    }
    return NULL;
}

static bool comparable(const touch *write, const touch *now, int clock) {
    return clock == THREADGROUP_CLOCK || simdgroup_of(write) == simdgroup_of(now);
}

static void note_overwriting(const cell *at, const touch *now) {
    if (at->write.group != group)
        return;
    for (int clock = 0; clock < CLOCK_COUNT; ++clock) {
        const uint32_t time = clock_of(now, clock);
        if (!comparable(&at->write, now, clock) || clock_of(&at->write, clock) >= time)
            continue;
        tile *of = find_tile(&at->write, clock, true);
        if (of && of->overwritten != time) {
            of->overwritten_before = of->overwritten;
            of->overwritten = time;
        }
    }
}

static bool is_leftover(cell *at, const touch *now) {
    bool leftover = false;
    for (int clock = 0; clock < CLOCK_COUNT; ++clock) {
        if (!comparable(&at->write, now, clock))
            continue;
        const uint32_t time = clock_of(now, clock), first_read = at->first_read[clock];
        if (first_read == NEVER)
            at->first_read[clock] = time;
        // Overwritten after the first read and before this one: there must be two barriers in between.
        const tile *of = first_read < time ? find_tile(&at->write, clock, false) : NULL;
        if (of) {
            const uint32_t since = of->overwritten < time ? of->overwritten : of->overwritten_before;
            leftover = leftover || (since < time && first_read < since);
        }
    }
    return leftover;
}

// ------------------------------------------------------------------ order

bool emui_history_begin_launch(void) {
    if (!threadgroup_cells)
        threadgroup_cells = calloc(EMUI_THREADGROUP_ARENA, sizeof(cell));
    if (page_count > KEPT_PAGES)
        forget_device_memory();
    first_group = group + 1;
    return threadgroup_cells != NULL;
}

void emui_history_begin_threadgroup(void) { ++group; }

static bool is_before(const touch *earlier, const touch *now) {
    if (earlier->threadgroup < now->threadgroup)
        return true;
    if (earlier->spread == ONE_THREAD && earlier->thread == now->thread)
        return true;
    return simdgroup_of(earlier) == simdgroup_of(now) && earlier->spread != WHOLE_GROUP &&
           earlier->simdgroup < now->simdgroup;
}

// `known` is the first threadgroup of which a cell can tell: threadgroup memory begins afresh with each.
static bool conflicts(const touch *earlier, const touch *now, uint32_t known, emui_verdict *verdict) {
    if (earlier->group < known || (earlier->atomic && now->atomic))
        return false;
    const bool other_group = earlier->many_groups || earlier->group != now->group;
    if (!other_group && is_before(earlier, now))
        return false;
    verdict->other_group = other_group;
    verdict->other_thread = earlier->thread;
    verdict->other_code = emui_launch_module.base + earlier->code;
    return true;
}

static void remember_read(touch *read, const touch *now, uint32_t known) {
    const touch earlier = *read;
    *read = *now;
    if (earlier.group < known)
        return;
    read->many_groups = earlier.many_groups || earlier.group != now->group;
    if (earlier.group != now->group || earlier.threadgroup < now->threadgroup)
        return;
    read->spread = earlier.spread;
    if (earlier.thread == now->thread)
        return;
    if (simdgroup_of(&earlier) != simdgroup_of(now))
        read->spread = WHOLE_GROUP;
    else if (earlier.spread != WHOLE_GROUP)
        read->spread = earlier.simdgroup < now->simdgroup ? ONE_THREAD : ONE_SIMDGROUP;
    read->atomic = earlier.atomic && now->atomic;
}

static emui_verdict check_byte(cell *at, const touch *now, const emui_access *access) {
    emui_verdict verdict = {0};
    const uint32_t known = access->is_threadgroup_memory ? group : first_group;
    if (conflicts(&at->write, now, known, &verdict)) {
        verdict.problem = "written";
    } else if (access->is_write && conflicts(&at->read, now, known, &verdict)) {
        verdict.problem = "read";
    } else if (access->is_threadgroup_memory && !access->is_write) {
        verdict.unwritten = at->write.group != group;
        verdict.stale = !verdict.unwritten && is_leftover(at, now) && !emui_launch_allows_stale;
        verdict.problem = verdict.unwritten ? "never written" : verdict.stale ? "written" : NULL;
        verdict.other_code = emui_launch_module.base + at->write.code;
        verdict.other_thread = at->write.thread;
    }
    if (access->is_write) {
        if (access->is_threadgroup_memory)
            note_overwriting(at, now);
        at->write = *now;
        at->first_read[THREADGROUP_CLOCK] = at->first_read[SIMDGROUP_CLOCK] = NEVER;
    } else {
        remember_read(&at->read, now, known);
    }
    return verdict;
}

emui_verdict emui_history_record(const emui_access *access) {
    const int memory = access->is_threadgroup_memory ? EMUI_THREADGROUP : EMUI_DEVICE;
    const touch now = {
        .group = group,
        .code = (uint32_t)((const char *)access->code - emui_launch_module.base),
        .threadgroup = emui_self->threadgroup_barriers[memory],
        .atomic = access->is_atomic,
        .simdgroup = emui_self->simdgroup_barriers[memory],
        .thread = emui_self->index,
    };
    for (size_t i = 0; i < access->size; ++i) {
        const uintptr_t address = access->address + i;
        cell *at = access->is_threadgroup_memory ? &threadgroup_cells[address - emui_threadgroup_memory_base()]
                                                 : device_cell(address);
        emui_verdict verdict = check_byte(at, &now, access);
        if (verdict.problem) {
            verdict.address = address;
            return verdict;
        }
    }
    return (emui_verdict){0};
}
