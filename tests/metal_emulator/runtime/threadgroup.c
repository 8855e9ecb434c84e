#include "threadgroup.h"

#include "counters.h"
#include "fault.h"
#include "kernel_calls.h"
#include "launch.h"
#include "random.h"

#include <string.h>

emui_thread *emui_self;
emui_simdgroup emui_simdgroups[EMUI_MAX_SIMDGROUPS];

static emui_thread threads[EMU_MAX_THREADS_PER_THREADGROUP];
static uint32_t thread_count;
static emui_meeting everyone;
static emui_fiber scheduler;
static const emui_grid *running;
static bool abandoned;

// Threads that can go on, oldest first.
static uint16_t ready[EMU_MAX_THREADS_PER_THREADGROUP];
static uint32_t ready_first, ready_count;

static uint16_t *ready_slot(uint32_t place) { return &ready[(ready_first + place) % EMU_MAX_THREADS_PER_THREADGROUP]; }

static void make_ready(uint32_t thread) {
    threads[thread].state = EMUI_READY;
    *ready_slot(ready_count++) = (uint16_t)thread;
}

static uint32_t next_ready(void) {
    const uint32_t last = ready_count - 1;
    uint32_t chosen = 0;
    if (running->order == EMU_ORDER_LIFO)
        chosen = last;
    else if (running->order == EMU_ORDER_RANDOM)
        chosen = (uint32_t)(emui_random(&emui_launch_random) % ready_count);
    const uint16_t thread = *ready_slot(chosen);
    if (chosen == 0) {
        ready_first = (ready_first + 1) % EMU_MAX_THREADS_PER_THREADGROUP;
    } else {
        *ready_slot(chosen) = *ready_slot(last);
    }
    --ready_count;
    return thread;
}

// Threads first .. first + count, in the order that the launch asks for.
static void make_range_ready(uint32_t first, uint32_t count, const emui_thread *except) {
    for (uint32_t i = 0; i < count; ++i) {
        const uint32_t thread = running->order == EMU_ORDER_REVERSE ? first + count - 1 - i : first + i;
        if (&threads[thread] != except)
            make_ready(thread);
    }
}

static bool same_text(const char *a, const char *b) { return a == b || strcmp(a, b) == 0; }

static bool same_site(const emui_site *a, const emui_site *b) {
    return a->line == b->line && same_text(a->what, b->what) && same_text(a->file, b->file);
}

static void diverged(const emui_thread *one, const char *does, const emui_site *where, const emui_thread *other,
                     const char *other_does, const emui_site *other_where) {
    emui_fault_raise(EMU_FAULT_DIVERGENCE, "thread %u (simdgroup %u, lane %u) %s%s at %s:%d, thread %u %s%s at %s:%d",
                     one->index, one->simdgroup, one->lane, does, where->what, where->file, where->line, other->index,
                     other_does, other_where->what, other_where->file, other_where->line);
}

static void compare_accesses(const emui_thread *one, const emui_thread *other) {
    static const emui_site none = {"none", "-", 0};
    if (one->accesses == other->accesses)
        return;
    diverged(one, "last passed ", one->access.what ? &one->access : &none, other, "last passed ",
             other->access.what ? &other->access : &none);
}

static void compare_all_accesses(void) {
    for (uint32_t i = 0; i < thread_count; ++i)
        compare_accesses(&threads[i], &threads[i] - threads[i].lane);
}

static void leave(void) { emui_fiber_switch(&emui_self->fiber, &scheduler); }

bool emui_meet(emui_meeting *meeting, emui_site site) {
    emui_thread *self = emui_self;
    self->site = site;
    if (meeting->arrived == 0) {
        meeting->site = site;
        meeting->first = self->index;
    }
    const emui_thread *first = &threads[meeting->first];
    if (!same_site(&site, &meeting->site))
        diverged(self, "is in ", &self->site, first, "in ", &first->site);
    if (meeting != &everyone)
        compare_accesses(self, first);
    self->completed_here = ++meeting->arrived == meeting->expected;
    if (self->completed_here) {
        meeting->arrived = 0;
        if (meeting == &everyone)
            compare_all_accesses();
        make_range_ready(meeting->first_thread, meeting->thread_count, self);
    } else {
        self->state = EMUI_WAITING;
        leave();
    }
    return self->completed_here;
}

_Noreturn void emui_threadgroup_abandon(void) {
    abandoned = true;
    leave();
    __builtin_unreachable();
}

static void thread_main(void) {
    running->entry(running->arguments);
    emui_self->state = EMUI_DONE;
    leave();
}

static void place_thread(emui_thread *thread, uint32_t index, const uint32_t group[3]) {
    const uint32_t *size = running->threads;
    const uint32_t simdgroups = (thread_count + EMU_SIMD_WIDTH - 1) / EMU_SIMD_WIDTH;
    *thread = (emui_thread){.index = index, .simdgroup = index / EMU_SIMD_WIDTH, .lane = index % EMU_SIMD_WIDTH};
    const uint32_t local[3] = {index % size[0], index / size[0] % size[1], index / size[0] / size[1]};
    for (int axis = 0; axis < 3; ++axis) {
        thread->position[EMU_THREAD_POSITION_IN_GRID][axis] = group[axis] * size[axis] + local[axis];
        thread->position[EMU_THREAD_POSITION_IN_THREADGROUP][axis] = local[axis];
        thread->position[EMU_THREADGROUP_POSITION_IN_GRID][axis] = group[axis];
        thread->position[EMU_THREADS_PER_GRID][axis] = running->threadgroups[axis] * size[axis];
        thread->position[EMU_THREADS_PER_THREADGROUP][axis] = size[axis];
        thread->position[EMU_THREADGROUPS_PER_GRID][axis] = running->threadgroups[axis];
    }
    thread->position[EMU_THREAD_INDEX_IN_THREADGROUP][0] = index;
    thread->position[EMU_THREAD_INDEX_IN_SIMDGROUP][0] = thread->lane;
    thread->position[EMU_SIMDGROUP_INDEX_IN_THREADGROUP][0] = thread->simdgroup;
    thread->position[EMU_SIMDGROUPS_PER_THREADGROUP][0] = simdgroups;
    thread->position[EMU_THREADS_PER_SIMDGROUP][0] = EMU_SIMD_WIDTH;
    emui_fiber_prepare(&thread->fiber, index, thread_main);
}

static void begin_meetings(void) {
    everyone = (emui_meeting){.expected = thread_count, .thread_count = thread_count};
    for (uint32_t first = 0, i = 0; first < thread_count; first += EMU_SIMD_WIDTH, ++i) {
        const uint32_t left = thread_count - first, count = left < EMU_SIMD_WIDTH ? left : EMU_SIMD_WIDTH;
        emui_simdgroups[i].meeting = (emui_meeting){.expected = count, .first_thread = first, .thread_count = count};
        emui_simdgroups[i].turn = 0;
    }
}

// When nobody can go on: whoever waits, waits for somebody who is done or waits elsewhere.
static void check_that_all_are_done(void) {
    const emui_thread *waiting = NULL;
    for (uint32_t i = 0; i < thread_count && !waiting; ++i)
        waiting = threads[i].state == EMUI_WAITING ? &threads[i] : NULL;
    if (!waiting) {
        compare_all_accesses();
        return;
    }
    emui_self = &threads[waiting->index];
    for (uint32_t i = 0; i < thread_count; ++i)
        if (threads[i].state == EMUI_DONE)
            emui_fault_raise(EMU_FAULT_DIVERGENCE,
                             "thread %u (simdgroup %u, lane %u) waits in %s at %s:%d, but thread %u has returned",
                             waiting->index, waiting->simdgroup, waiting->lane, waiting->site.what, waiting->site.file,
                             waiting->site.line, i);
    for (uint32_t i = 0; i < thread_count; ++i)
        if (!same_site(&threads[i].site, &waiting->site))
            diverged(waiting, "waits in ", &waiting->site, &threads[i], "in ", &threads[i].site);
    emui_fault_raise(EMU_FAULT_DIVERGENCE, "threads wait for each other in %s at %s:%d", waiting->site.what,
                     waiting->site.file, waiting->site.line);
}

bool emui_threadgroup_run(const emui_grid *grid, const uint32_t position[3]) {
    running = grid;
    abandoned = false;
    thread_count = grid->threads[0] * grid->threads[1] * grid->threads[2];
    ready_first = ready_count = 0;
    for (uint32_t i = 0; i < thread_count; ++i)
        place_thread(&threads[i], i, position);
    begin_meetings();
    make_range_ready(0, thread_count, NULL);
    while (ready_count && !abandoned) {
        emui_self = &threads[next_ready()];
        emui_fiber_switch(&scheduler, &emui_self->fiber);
    }
    if (!abandoned)
        check_that_all_are_done();
    emui_self = NULL;
    return !emui_fault_raised();
}

// ------------------------------------------------------------------ what kernels call

uint32_t emu_position(int attribute, int axis) { return emui_self->position[attribute][axis]; }

uint32_t emu_lane_count(void) { return emui_simdgroups[emui_self->simdgroup].meeting.expected; }

static void ordered(uint32_t counts[EMUI_MEMORY_COUNT], uint32_t memory) {
    counts[EMUI_DEVICE] += (memory & EMU_MEMORY_DEVICE) != 0;
    counts[EMUI_THREADGROUP] += (memory & EMU_MEMORY_THREADGROUP) != 0;
}

void emu_threadgroup_barrier(uint32_t memory, const char *file, int line) {
    emui_thread *self = emui_self;
    if (emui_meet(&everyone, (emui_site){"threadgroup_barrier", file, line}))
        ++emui_counters.threadgroup_barriers;
    ordered(self->threadgroup_barriers, memory);
}

void emu_simdgroup_barrier(uint32_t memory, const char *file, int line) {
    emui_thread *self = emui_self;
    if (emui_meet(&emui_simdgroups[self->simdgroup].meeting, (emui_site){"simdgroup_barrier", file, line}))
        ++emui_counters.simdgroup_barriers;
    ordered(self->simdgroup_barriers, memory);
}
