// One threadgroup on fibers: scheduling, barriers, and meetings of simdgroups.
#ifndef METAL_EMULATOR_THREADGROUP_H
#define METAL_EMULATOR_THREADGROUP_H

#include "emulator.h"
#include "fiber.h"
#include "kernel_interface.h"

enum { EMUI_MAX_SIMDGROUPS = EMU_MAX_THREADS_PER_THREADGROUP / EMU_SIMD_WIDTH };
enum { EMUI_DEVICE, EMUI_THREADGROUP, EMUI_MEMORY_COUNT };

typedef struct {
    const char *what, *file;
    int line;
} emui_site;

typedef enum { EMUI_READY, EMUI_WAITING, EMUI_DONE } emui_state;

typedef struct {
    emui_fiber fiber;
    emui_state state;
    uint32_t index, simdgroup, lane;
    uint32_t position[EMU_POSITION_COUNT][3];
    emui_site site;      // where it waits, or met others last
    emui_site access;    // its last simdgroup_load or simdgroup_store
    uint32_t accesses;   // a digest of all of them, equal among the lanes of a simdgroup
    bool completed_here; // it was the last to come to its last meeting
    // How many barriers lie behind it, by the memory that they order.
    uint32_t threadgroup_barriers[EMUI_MEMORY_COUNT], simdgroup_barriers[EMUI_MEMORY_COUNT];
} emui_thread;

// Threads that have come to a barrier or collective operation and wait for the rest.
typedef struct {
    uint32_t expected, arrived;
    uint32_t first_thread, thread_count; // the range of threads that it is for
    emui_site site;
    uint32_t first; // who came first
} emui_meeting;

enum { EMUI_VALUE_SIZE = 16, EMUI_VALUE_COUNT = EMU_SIMD_WIDTH + 2 };

typedef struct {
    emui_meeting meeting;
    // Two, of which a lane may still read one when another lane fills the next.
    _Alignas(64) char values[2][EMUI_VALUE_COUNT * EMUI_VALUE_SIZE];
    _Alignas(64) float a[64], b[64], c[64], product[2][64];
    uint32_t turn;
} emui_simdgroup;

typedef struct {
    uint32_t threadgroups[3], threads[3];
    emu_order order;
    void (*entry)(const uint64_t *arguments);
    const uint64_t *arguments;
} emui_grid;

extern emui_thread *emui_self; // the thread that runs
extern emui_simdgroup emui_simdgroups[EMUI_MAX_SIMDGROUPS];

// Runs every thread to its end. False: a fault was raised.
bool emui_threadgroup_run(const emui_grid *grid, const uint32_t position[3]);

// Waits for the rest. True for the thread that came last, which goes on at once.
bool emui_meet(emui_meeting *meeting, emui_site site);

// Leaves the running thread for good, and with it the threadgroup. For the fault's use.
_Noreturn void emui_threadgroup_abandon(void);

#endif
