// emu_run: checks a launch as Metal's validation would, lays its memory out and runs its threadgroups.
#define _GNU_SOURCE
#include "launch.h"

#include "counters.h"
#include "fault.h"
#include "fiber.h"
#include "history.h"
#include "kernel_calls.h"
#include "pipeline.h"
#include "random.h"
#include "region.h"
#include "signals.h"
#include "threadgroup.h"
#include "threadgroup_memory.h"

#include <immintrin.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

const char *emui_launch_kernel = "";
emui_module emui_launch_module;
uint32_t emui_launch_position[3];
uint64_t emui_launch_seed, emui_launch_random;
uint32_t emui_launch_ulps;
bool emui_launch_allows_stale;
uint64_t emui_launch_arguments[EMU_SLOT_COUNT];

void emui_launch_lock(void) { pthread_mutex_lock(&lock); }

void emui_launch_unlock(void) { pthread_mutex_unlock(&lock); }

// What unbound arguments point to: zeros that can be read, since the compiler may load early what a branch would use.
enum { ZEROS_SIZE = 1 << 16 };

static void *zeros(void) {
    static void *memory = MAP_FAILED;
    if (memory == MAP_FAILED)
        memory = mmap(NULL, ZEROS_SIZE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

static const emu_binding *find_binding(const emu_launch *launch, const emu_argument *argument) {
    for (size_t i = 0; i < launch->binding_count; ++i) {
        const emu_binding *binding = &launch->bindings[i];
        const bool is_threadgroup = binding->kind == EMU_BINDING_THREADGROUP;
        if (binding->index == argument->index && is_threadgroup == (argument->kind == EMU_ARGUMENT_THREADGROUP))
            return binding;
    }
    return NULL;
}

#define refuse(...) emui_fault_note(EMU_FAULT_LAUNCH, __VA_ARGS__)

static void check_sizes(const emu_pipeline *pipeline, const emu_launch *launch) {
    const uint64_t threads = (uint64_t)launch->threads[0] * launch->threads[1] * launch->threads[2];
    if (launch->threads[0] > 1024 || launch->threads[1] > 1024 || launch->threads[2] > 1024 || threads == 0)
        refuse("%u x %u x %u threads in a threadgroup", launch->threads[0], launch->threads[1], launch->threads[2]);
    else if (threads > pipeline->max_threads)
        refuse("%u threads in a threadgroup, but the pipeline allows %u", (unsigned)threads, pipeline->max_threads);
    uint64_t memory = pipeline->static_threadgroup_memory;
    for (size_t i = 0; i < launch->binding_count; ++i) {
        const emu_binding *binding = &launch->bindings[i];
        if (binding->index >= EMU_BUFFER_SLOTS) {
            refuse("index %u, but there are %d", binding->index, EMU_BUFFER_SLOTS);
        } else if (binding->kind == EMU_BINDING_THREADGROUP) {
            memory += binding->length;
            if (binding->length % 16)
                refuse("threadgroup memory %u has %llu bytes, not a multiple of 16", binding->index,
                       (unsigned long long)binding->length);
        } else if (binding->kind == EMU_BINDING_BYTES) {
            if (binding->length > EMU_MAX_BYTES_LENGTH)
                refuse("setBytes of %llu bytes at index %u", (unsigned long long)binding->length, binding->index);
        } else if (binding->offset > binding->length) {
            refuse("offset %llu of buffer %u, which has %llu bytes", (unsigned long long)binding->offset,
                   binding->index, (unsigned long long)binding->length);
        }
    }
    if (memory > EMU_MAX_THREADGROUP_MEMORY)
        refuse("%llu bytes of threadgroup memory, but there are %d", (unsigned long long)memory,
               EMU_MAX_THREADGROUP_MEMORY);
    if (memory > emui_counters.threadgroup_bytes_allocated)
        emui_counters.threadgroup_bytes_allocated = memory;
}

static void add_region(emui_region region) {
    if (!emui_region_add(&region))
        refuse("too many pieces of memory");
}

static void bind_buffer(const emu_binding *binding, const emu_argument *argument) {
    enum { MAX_EXTENTS = 64 };
    emui_extent extents[MAX_EXTENTS];
    const uintptr_t base = (uintptr_t)binding->base;
    size_t count = emui_memory_extents(binding->base, binding->length, extents, MAX_EXTENTS);
    if (count == 0)
        extents[count++] = (emui_extent){base, base + binding->length};
    const emui_allocation allocation = emui_memory_find(binding->base);
    for (size_t i = 0; i < count; ++i)
        add_region((emui_region){extents[i].start, extents[i].end, EMUI_REGION_BUFFER, argument->name, argument->index,
                                 true, argument->kind == EMU_ARGUMENT_CONSTANT, base, allocation});
    emui_launch_arguments[argument->index] = base + binding->offset;
}

// Copies, so that what the caller does later has no effect; `copies` keeps them until the end of the launch.
static void bind_bytes(const emu_binding *binding, const emu_argument *argument, void **copies) {
    void *copy = emu_memory_allocate(binding->length, EMU_FILL_ZERO);
    if (!copy) {
        refuse("no memory for setBytes at index %u", binding->index);
        return;
    }
    copies[argument->index] = memcpy(copy, binding->base, binding->length);
    const uintptr_t start = (uintptr_t)copy;
    add_region((emui_region){start, start + binding->length, EMUI_REGION_BYTES, argument->name, argument->index, true,
                             argument->kind == EMU_ARGUMENT_CONSTANT, start, emui_memory_find(copy)});
    emui_launch_arguments[argument->index] = start;
}

static uintptr_t place_threadgroup_memory(size_t size, const char *name, uint32_t index, bool has_index) {
    const uintptr_t start = emui_threadgroup_memory_place(size);
    if (!start)
        refuse("too many threadgroup variables");
    add_region((emui_region){start, start + size, EMUI_REGION_THREADGROUP, name, index, has_index, false, start, {0}});
    return start;
}

static void bind(const emu_pipeline *pipeline, const emu_launch *launch, void **copies) {
    emui_region_begin(zeros(), ZEROS_SIZE);
    for (int slot = 0; slot < EMU_SLOT_COUNT; ++slot)
        emui_launch_arguments[slot] = (uint64_t)(uintptr_t)zeros();
    for (size_t i = 0; i < pipeline->kernel.argument_count; ++i) {
        const emu_argument *argument = &pipeline->arguments[i];
        const emu_binding *binding = find_binding(launch, argument);
        if (!binding || (binding->kind == EMU_BINDING_BUFFER && !binding->base))
            continue;
        if (binding->kind == EMU_BINDING_THREADGROUP)
            emui_launch_arguments[EMU_FIRST_THREADGROUP_SLOT + argument->index] =
                place_threadgroup_memory(binding->length, argument->name, argument->index, true);
        else if (binding->kind == EMU_BINDING_BYTES)
            bind_bytes(binding, argument, copies);
        else
            bind_buffer(binding, argument);
    }
    for (struct emu_variable *variable = pipeline->module.variables; variable < pipeline->module.variables_end;
         ++variable)
        if (variable->size)
            variable->address = place_threadgroup_memory(variable->size, variable->name, 0, false);
}

static bool run_threadgroup(const emui_grid *grid, uint64_t number) {
    const uint32_t *count = grid->threadgroups;
    uint32_t *position = emui_launch_position;
    position[0] = (uint32_t)(number % count[0]);
    position[1] = (uint32_t)(number / count[0] % count[1]);
    position[2] = (uint32_t)(number / count[0] / count[1]);
    emui_threadgroup_memory_poison();
    emui_history_begin_threadgroup();
    if (!emui_threadgroup_run(grid, position))
        return false;
    const uintptr_t overrun = emui_threadgroup_memory_overrun();
    if (overrun) {
        char place[400];
        emui_region_describe(overrun, 1, place, sizeof place);
        emui_fault_note(EMU_FAULT_OUT_OF_BOUNDS, "a thread wrote %s", place);
    }
    return !emui_fault_raised();
}

// Numbers 0 .. count - 1, each once. A random order takes steps of a length that has no factor in common with count.
static uint64_t greatest_common_divisor(uint64_t a, uint64_t b) {
    while (b) {
        const uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

static void run_threadgroups(const emui_grid *grid) {
    const uint64_t count = (uint64_t)grid->threadgroups[0] * grid->threadgroups[1] * grid->threadgroups[2];
    uint64_t number = 0, step = 1;
    if (grid->order == EMU_ORDER_RANDOM && count > 1) {
        number = emui_random(&emui_launch_random) % count;
        do
            step = emui_random(&emui_launch_random) % count;
        while (greatest_common_divisor(step, count) != 1);
    } else if (grid->order != EMU_ORDER_FIFO && count > 0) {
        number = count - 1;
        step = count - 1;
    }
    for (uint64_t i = 0; i < count && run_threadgroup(grid, number); ++i)
        number = (number + step) % count;
}

static void check_slack(const emu_launch *launch) {
    for (size_t i = 0; i < launch->binding_count; ++i) {
        if (launch->bindings[i].kind != EMU_BINDING_BUFFER || !launch->bindings[i].base)
            continue;
        const emui_allocation allocation = emui_memory_find(launch->bindings[i].base);
        if (allocation.start && !emui_memory_slack_intact(&allocation))
            emui_fault_note(EMU_FAULT_OUT_OF_BOUNDS, "a thread wrote next to buffer %u", launch->bindings[i].index);
    }
}

// GPUs take denormal floats for zeros, and make none. Halves keep theirs.
enum { FLUSH_RESULTS = 0x8000, FLUSH_OPERANDS = 0x0040 };

static void run(const emu_pipeline *pipeline, const emu_launch *launch) {
    void *copies[EMU_BUFFER_SLOTS] = {0};
    bind(pipeline, launch, copies);
    emui_grid grid = {.order = launch->order, .entry = pipeline->module.entry, .arguments = emui_launch_arguments};
    memcpy(grid.threadgroups, launch->threadgroups, sizeof grid.threadgroups);
    memcpy(grid.threads, launch->threads, sizeof grid.threads);
    if (!emui_fault_raised()) {
        ++emui_counters.launches;
        run_threadgroups(&grid);
        check_slack(launch);
    }
    for (int i = 0; i < EMU_BUFFER_SLOTS; ++i)
        emu_memory_free(copies[i]);
}

bool emu_run(const emu_pipeline *pipeline, const emu_launch *launch, emu_fault *fault) {
    emui_launch_lock();
    emui_launch_kernel = pipeline->kernel.name;
    emui_launch_module = pipeline->module;
    emui_launch_seed = emui_launch_random = launch->seed;
    emui_launch_ulps = launch->fast_ulps;
    emui_launch_allows_stale = launch->allow_stale;
    memset(emui_launch_position, 0, sizeof emui_launch_position);
    emui_fault_clear();
    check_sizes(pipeline, launch);
    if (!emui_fault_raised() &&
        !(emui_fiber_reserve((size_t)launch->threads[0] * launch->threads[1] * launch->threads[2]) &&
          emui_threadgroup_memory_begin() && emui_history_begin_launch() && zeros()))
        refuse("no memory for the emulator");
    if (!emui_fault_raised()) {
        const uint32_t floating = _mm_getcsr();
        if (emui_signals_begin()) {
            _mm_setcsr(floating | FLUSH_RESULTS | FLUSH_OPERANDS);
            run(pipeline, launch);
            _mm_setcsr(floating);
        } else {
            refuse("the emulator cannot catch traps");
        }
        emui_signals_end();
    }
    *fault = *emui_fault_get();
    emui_launch_unlock();
    return fault->kind == EMU_FAULT_NONE;
}

// ------------------------------------------------------------------ what kernels call

uint64_t emu_threadgroup_address(const struct emu_variable *variable) { return variable->address; }
