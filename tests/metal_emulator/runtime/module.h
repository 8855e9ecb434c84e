// A compiled module: machine code and tables, loaded from the cache or made by the compiler.
#ifndef METAL_EMULATOR_MODULE_H
#define METAL_EMULATOR_MODULE_H

#include "kernel_interface.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct {
    void *handle;
    const char *base, *end; // where it is mapped
    char path[1024];
    const struct emu_module_kernel *kernels;
    const struct emu_module_argument *arguments;
    const struct emu_module_constant *constants;
    struct emu_variable *variables, *variables_end;
    void (*entry)(const uint64_t *arguments); // NULL for a library's module
} emui_module;

// `request` and `source` are what compile_module.py reads; `library`: of a pipeline's module, or NULL. *messages gets
// diagnostics, to be freed, or NULL.
bool emui_module_load(emui_module *module, const char *request, const char *source, size_t length,
                      const emui_module *library, char **messages);
void emui_module_unload(emui_module *module);

// Only compiles. True if clean.
bool emui_module_lint(const char *request, const char *source, size_t length, char **messages);

#endif
