#define _GNU_SOURCE
#include "module.h"

#include "toolchain.h"

#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Modules call the emulator by name: whoever loaded it may have kept its names to himself.
static void publish_own_names(void) {
    Dl_info self;
    if (dladdr((const void *)(uintptr_t)publish_own_names, &self) && self.dli_fname)
        dlopen(self.dli_fname, RTLD_NOW | RTLD_GLOBAL | RTLD_NOLOAD);
}

static int find_range(struct dl_phdr_info *info, size_t size, void *opaque) {
    emui_module *module = opaque;
    (void)size;
    if (!info->dlpi_name || strcmp(info->dlpi_name, module->path) != 0)
        return 0;
    module->base = (const char *)info->dlpi_addr;
    for (int i = 0; i < info->dlpi_phnum; ++i) {
        const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
        const char *end = module->base + segment->p_vaddr + segment->p_memsz;
        if (segment->p_type == PT_LOAD && end > module->end)
            module->end = end;
    }
    return 1;
}

// What is wrong with a module that compiled but does not load: a function constant that nobody gave.
static char *loading_problem(const char *problem) {
    static const char before[] = "undefined symbol: ";
    const char *name = strstr(problem, before);
    char *text = NULL;
    const int length = name ? asprintf(&text, "function constant '%s' has no value", name + sizeof before - 1)
                            : asprintf(&text, "%s", problem);
    return length < 0 ? NULL : text;
}

bool emui_module_load(emui_module *module, const char *request, const char *source, size_t length,
                      const emui_module *library, char **messages) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, publish_own_names);
    *module = (emui_module){0};
    if (!emui_toolchain_module(request, source, length, library ? library->path : NULL, module->path,
                               sizeof module->path, messages))
        return false;
    module->handle = dlopen(module->path, RTLD_NOW | RTLD_LOCAL);
    if (!module->handle) {
        free(*messages);
        *messages = loading_problem(dlerror());
        return false;
    }
    dl_iterate_phdr(find_range, module);
    module->kernels = dlsym(module->handle, "emu_kernels");
    module->arguments = dlsym(module->handle, "emu_arguments");
    module->constants = dlsym(module->handle, "emu_constants");
    module->entry = (void (*)(const uint64_t *))(uintptr_t)dlsym(module->handle, "emu_entry");
    struct emu_variable *(*bound)(void);
    bound = (struct emu_variable * (*)(void))(uintptr_t)dlsym(module->handle, "emu_first_variable");
    module->variables = bound();
    bound = (struct emu_variable * (*)(void))(uintptr_t)dlsym(module->handle, "emu_end_of_variables");
    module->variables_end = bound();
    return true;
}

void emui_module_unload(emui_module *module) {
    if (module->handle)
        dlclose(module->handle);
}

bool emui_module_lint(const char *request, const char *source, size_t length, char **messages) {
    return emui_toolchain_check(request, source, length, messages);
}
