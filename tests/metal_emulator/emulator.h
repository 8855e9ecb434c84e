// A small Metal GPU for Linux: compiles MSL text and runs its kernels on the CPU, one fiber per GPU thread.
// Everything here may be called from several threads; launches run one after the other.
// Functions that return `char **error` text allocate it: the caller frees it with free().
#ifndef METAL_EMULATOR_H
#define METAL_EMULATOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#pragma GCC visibility push(default)

enum {
    EMU_SIMD_WIDTH = 32,
    EMU_MAX_THREADS_PER_THREADGROUP = 1024,
    EMU_MAX_THREADGROUP_MEMORY = 32768,
    EMU_BUFFER_SLOTS = 31,
    EMU_MAX_BYTES_LENGTH = 4096, // setBytes
    EMU_PAGE_SIZE = 16384,
};

// ------------------------------------------------------------------ device memory

typedef enum {
    EMU_FILL_ZERO,
    EMU_FILL_UNWRITTEN, // NaN for every float type; the checked build faults when a kernel reads a byte nobody wrote
} emu_fill;

// Memory with inaccessible pages around it, its end as near to the upper one as an alignment of 256 allows.
// NULL if there is no memory. A launch faults if it finds the slack around a bound buffer changed.
void *emu_memory_allocate(size_t length, emu_fill fill);
void emu_memory_free(void *memory); // NULL is allowed

// Narrows what kernels may touch inside memory wrapped without a copy: page padding belongs to the Metal buffer, but
// not to the caller's array. Where an extent lies inside a bound buffer, the checked build refuses what is outside all
// extents of that buffer. Meant for tests; withdraw with the same address.
void emu_extent_declare(const void *start, size_t length);
void emu_extent_withdraw(const void *start);

// ------------------------------------------------------------------ libraries

typedef enum {
    EMU_MODE_FAST,    // redzones, poisoned threadgroup memory, divergence faults
    EMU_MODE_CHECKED, // all of that, and every memory access: bounds, races, unwritten and stale data, byte counters
} emu_mode;

typedef struct {
    const char *name, *value;
} emu_macro;

// As MTLMathMode: what the compiler may do with arithmetic.
typedef enum {
    EMU_MATH_SAFE,
    EMU_MATH_RELAXED, // other results, but NaN and infinity stay what they are
    EMU_MATH_FAST,    // breaks NaN and infinity for good, as Metal may
} emu_math;

typedef struct {
    const emu_macro *macros;
    size_t macro_count;
    uint32_t language_version; // as MTLLanguageVersion: major << 16 | minor; 0 = 3.1
    emu_math math;
    bool fast_functions; // exp(x) without a namespace is fast::exp(x), else precise::exp(x); and so on
    emu_mode mode;
} emu_compile_options;

typedef enum {
    EMU_TYPE_BOOL,
    EMU_TYPE_CHAR,
    EMU_TYPE_UCHAR,
    EMU_TYPE_SHORT,
    EMU_TYPE_USHORT,
    EMU_TYPE_INT,
    EMU_TYPE_UINT,
    EMU_TYPE_LONG,
    EMU_TYPE_ULONG,
    EMU_TYPE_HALF,
    EMU_TYPE_BFLOAT,
    EMU_TYPE_FLOAT,
    EMU_TYPE_OTHER,
} emu_type;

typedef struct {
    const char *name;
    uint32_t index;
    emu_type type;
    bool required; // false: the source asks is_function_constant_defined()
} emu_function_constant;

typedef enum { EMU_ARGUMENT_DEVICE, EMU_ARGUMENT_CONSTANT, EMU_ARGUMENT_THREADGROUP } emu_argument_kind;

// [[buffer(index)]] or [[threadgroup(index)]]: two separate numberings.
typedef struct {
    const char *name;
    uint32_t index;
    emu_argument_kind kind;
    bool read_only;
    bool conditional; // [[function_constant(...)]]: may be absent from a pipeline
} emu_argument;

typedef struct {
    const char *name; // as newFunctionWithName: takes it
    const emu_argument *arguments;
    size_t argument_count;
} emu_kernel;

typedef struct emu_library emu_library;

// Returns NULL with the compiler's diagnostics in *error. On success *error has the warnings, or is NULL.
emu_library *emu_library_create(const char *source, size_t length, const emu_compile_options *options, char **error);
void emu_library_destroy(emu_library *library); // pipelines made from it live on
size_t emu_library_kernel_count(const emu_library *library);
const emu_kernel *emu_library_kernel(const emu_library *library, size_t number);
const emu_kernel *emu_library_find_kernel(const emu_library *library, const char *name); // NULL: no such kernel
size_t emu_library_constant_count(const emu_library *library);
const emu_function_constant *emu_library_constant(const emu_library *library, size_t number);

// Compiles only, refusing what GPUs or house rules refuse: double, recursion, exceptions, function pointers, `static`
// locals, __asm, virtual, pointers without an address space. Returns true if clean; else *diagnostics says what.
bool emu_lint(const char *source, size_t length, const emu_compile_options *options, char **diagnostics);

// ------------------------------------------------------------------ pipelines

// A value is found by name if name is not NULL, else by index. `bytes` has the size of `type`, which must match.
typedef struct {
    const char *name;
    uint32_t index;
    emu_type type;
    const void *bytes;
} emu_constant_value;

typedef struct emu_pipeline emu_pipeline;

// Returns NULL and the reason in *error: no such kernel, a required constant without value, or a compiler's message.
emu_pipeline *emu_pipeline_create(const emu_library *library, const char *kernel, const emu_constant_value *values,
                                  size_t value_count, char **error);
void emu_pipeline_destroy(emu_pipeline *pipeline);
uint32_t emu_pipeline_max_threads(const emu_pipeline *pipeline); // 1024, or the kernel's attribute
uint32_t emu_pipeline_static_threadgroup_memory(const emu_pipeline *pipeline);
// Arguments that this specialisation really has.
const emu_kernel *emu_pipeline_kernel(const emu_pipeline *pipeline);

// ------------------------------------------------------------------ launches

typedef enum {
    EMU_BINDING_BUFFER,      // base + offset is the kernel's pointer; [base, base + length) is legal
    EMU_BINDING_BYTES,       // base..base + length is copied
    EMU_BINDING_THREADGROUP, // length bytes of threadgroup memory; base and offset unused
} emu_binding_kind;

typedef struct {
    emu_binding_kind kind;
    uint32_t index;
    void *base;
    uint64_t length, offset;
} emu_binding;

typedef enum { EMU_ORDER_FIFO, EMU_ORDER_REVERSE, EMU_ORDER_LIFO, EMU_ORDER_RANDOM } emu_order;

typedef struct {
    const emu_binding *bindings;
    size_t binding_count;
    uint32_t threadgroups[3];
    uint32_t threads[3]; // per threadgroup
    emu_order order;     // of threads, and of threadgroups
    uint64_t seed;       // for EMU_ORDER_RANDOM and fast_ulps
    uint32_t fast_ulps;  // results of fast:: functions are moved by up to so many units in the last place
    // The checked build takes threadgroup memory for stale when it was written together with other bytes, which were
    // overwritten since it was last filled and read. Algorithms that mean it (a scan in place) say so here.
    bool allow_stale;
} emu_launch;

typedef enum {
    EMU_FAULT_NONE,
    EMU_FAULT_LAUNCH,        // sizes or bindings that Metal's validation refuses
    EMU_FAULT_OUT_OF_BOUNDS, // device, constant or threadgroup memory
    EMU_FAULT_READ_ONLY,     // a store to constant memory or to setBytes
    EMU_FAULT_UNWRITTEN,     // a read of memory that nobody wrote
    EMU_FAULT_STALE,         // a read of what an earlier pass over a threadgroup tile left behind
    EMU_FAULT_RACE,          // within a threadgroup, or between threadgroups of one launch
    EMU_FAULT_DIVERGENCE,    // a barrier or simdgroup operation that not every thread reaches
    EMU_FAULT_TRAP,          // division by zero, illegal instruction, stack overflow
} emu_fault_kind;

typedef struct {
    emu_fault_kind kind;
    char text[1024]; // kind, kernel, buffer or variable, offset, MSL line, threadgroup, lanes
} emu_fault;

const char *emu_fault_name(emu_fault_kind kind);

// Runs the launch to its end. False: *fault says why; memory then holds what was written until then.
bool emu_run(const emu_pipeline *pipeline, const emu_launch *launch, emu_fault *fault);

// ------------------------------------------------------------------ counters

// Sums over launches since the last reset. Bytes are counted by the checked build only. What kernels load from `constant`
// arguments is no device traffic: all threads load the same few bytes, which a cache of their own keeps. It is in
// buffer_bytes_loaded, and only there; tables that a source declares `constant` are part of the program and not counted.
typedef struct {
    uint64_t launches;
    uint64_t matrix_multiplies;                        // 8x8x8, one for a simdgroup
    uint64_t exponentials;                             // exp, exp2, exp10; one for each lane and vector component
    uint64_t device_bytes_loaded, device_bytes_stored; // of `device` arguments: the sum of their buffer_bytes
    uint64_t threadgroup_bytes_loaded, threadgroup_bytes_stored;
    uint64_t threadgroup_barriers;        // one for a threadgroup
    uint64_t simdgroup_barriers;          // one for a simdgroup
    uint64_t shuffles;                    // shuffles, broadcasts and reductions; one for a simdgroup
    uint64_t threadgroup_bytes_allocated; // the largest of any launch: static and dynamic
    uint64_t buffer_bytes_loaded[EMU_BUFFER_SLOTS], buffer_bytes_stored[EMU_BUFFER_SLOTS]; // `constant` ones too
} emu_counters;

void emu_counters_read(emu_counters *counters);
void emu_counters_reset(void);

// ------------------------------------------------------------------ environment
// METAL_EMULATOR_PYTHON  interpreter of the source transform   (python3)
// METAL_EMULATOR_CLANG   compiler                              (clang-19)
// METAL_EMULATOR_HOME    this header's folder               (must be set)
// METAL_EMULATOR_CACHE   compiled kernels                      (XDG_CACHE_HOME or ~/.cache, then /metal_emulator)

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif

#endif
