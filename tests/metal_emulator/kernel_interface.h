// What a compiled kernel and the emulator know of each other: read by C and, in OpenCL C++, by every kernel.
#ifndef METAL_EMULATOR_KERNEL_INTERFACE_H
#define METAL_EMULATOR_KERNEL_INTERFACE_H

#ifdef __OPENCL_CPP_VERSION__
#define EMU_TEXT const __constant char *
#else
#include <stdint.h>
#define EMU_TEXT const char *
#endif

// EMU_ and the name of the attribute in capitals: the transform relies on it.
enum {
    EMU_THREAD_POSITION_IN_GRID,
    EMU_THREAD_POSITION_IN_THREADGROUP,
    EMU_THREAD_INDEX_IN_THREADGROUP,
    EMU_THREAD_INDEX_IN_SIMDGROUP,
    EMU_SIMDGROUP_INDEX_IN_THREADGROUP,
    EMU_THREADGROUP_POSITION_IN_GRID,
    EMU_THREADS_PER_GRID,
    EMU_THREADS_PER_THREADGROUP,
    EMU_THREADGROUPS_PER_GRID,
    EMU_SIMDGROUPS_PER_THREADGROUP,
    EMU_THREADS_PER_SIMDGROUP,
    EMU_POSITION_COUNT,
};

enum { EMU_MEMORY_DEVICE = 1, EMU_MEMORY_THREADGROUP = 2 }; // as metal::mem_flags

// Slots of an entry's arguments: [[buffer(n)]] is n, [[threadgroup(n)]] follows after all buffers.
enum { EMU_FIRST_THREADGROUP_SLOT = 31, EMU_SLOT_COUNT = 62 };

// Tables that a module exports, each ended by a record without a name.
struct emu_module_kernel {
    EMU_TEXT name;
    uint32_t max_threads; // 0: not said
};

struct emu_module_argument {
    EMU_TEXT owner; // the kernel
    EMU_TEXT name;
    uint32_t index, kind, is_const, conditional, present;
};

struct emu_module_constant {
    EMU_TEXT name;
    EMU_TEXT type;
    uint32_t index, required;
};

// A threadgroup variable; the table emu_variables is a section of its own.
struct emu_variable {
    uint64_t address, size;
    EMU_TEXT name;
    uint64_t line;
};

#endif
