// Libraries and the pipelines made from them.
#define _GNU_SOURCE
#include "emulator.h"
#include "module.h"
#include "pipeline.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct emu_library {
    emui_module module;
    char *source, *request; // the lines that are common to all that is made from it
    size_t length;
    emu_mode mode;
    emu_kernel *kernels;
    emu_argument *arguments; // of all kernels, in the module's order
    emu_function_constant *constants;
    size_t kernel_count, constant_count;
};

static const struct {
    const char *name;
    size_t size;
} types[] = {
    [EMU_TYPE_BOOL] = {"bool", 1},   [EMU_TYPE_CHAR] = {"char", 1},     [EMU_TYPE_UCHAR] = {"uchar", 1},
    [EMU_TYPE_SHORT] = {"short", 2}, [EMU_TYPE_USHORT] = {"ushort", 2}, [EMU_TYPE_INT] = {"int", 4},
    [EMU_TYPE_UINT] = {"uint", 4},   [EMU_TYPE_LONG] = {"long", 8},     [EMU_TYPE_ULONG] = {"ulong", 8},
    [EMU_TYPE_HALF] = {"half", 2},   [EMU_TYPE_BFLOAT] = {"bfloat", 2}, [EMU_TYPE_FLOAT] = {"float", 4},
};

static emu_type type_named(const char *name) {
    for (size_t i = 0; i < sizeof types / sizeof types[0]; ++i)
        if (strcmp(types[i].name, name) == 0)
            return (emu_type)i;
    return EMU_TYPE_OTHER;
}

static char *text(const char *format, ...) __attribute__((format(printf, 1, 2)));
static char *text(const char *format, ...) {
    va_list arguments;
    char *made = NULL;
    va_start(arguments, format);
    if (vasprintf(&made, format, arguments) < 0)
        made = NULL;
    va_end(arguments);
    return made;
}

// ------------------------------------------------------------------ libraries

static char *common_request(const emu_compile_options *options) {
    const uint32_t version = options->language_version ? options->language_version : 3u << 16 | 1;
    char *request = NULL;
    size_t size = 0;
    FILE *lines = open_memstream(&request, &size);
    if (!lines)
        return NULL;
    static const char *const math[] = {"safe", "relaxed", "fast"};
    fprintf(lines, "math %s\nfast_functions %d\nlanguage %u.%u\n", math[options->math], options->fast_functions,
            version >> 16, version & 0xffff);
    for (size_t i = 0; i < options->macro_count; ++i)
        fprintf(lines, "macro %s %s\n", options->macros[i].name, options->macros[i].value);
    fclose(lines);
    return request;
}

static emu_argument *copy_arguments(const struct emu_module_argument *from) {
    size_t count = 0;
    while (from[count].name)
        ++count;
    emu_argument *arguments = calloc(count + 1, sizeof *arguments);
    for (size_t i = 0; arguments && i < count; ++i)
        arguments[i] = (emu_argument){from[i].name, from[i].index, (emu_argument_kind)from[i].kind, from[i].is_const,
                                      from[i].conditional};
    return arguments;
}

static bool describe(emu_library *library) {
    const emui_module *module = &library->module;
    while (module->kernels[library->kernel_count].name)
        ++library->kernel_count;
    while (module->constants[library->constant_count].name)
        ++library->constant_count;
    library->kernels = calloc(library->kernel_count + 1, sizeof *library->kernels);
    library->constants = calloc(library->constant_count + 1, sizeof *library->constants);
    library->arguments = copy_arguments(module->arguments);
    if (!library->kernels || !library->constants || !library->arguments)
        return false;
    size_t next = 0;
    for (size_t i = 0; i < library->kernel_count; ++i) {
        emu_kernel *kernel = &library->kernels[i];
        kernel->name = module->kernels[i].name;
        kernel->arguments = library->arguments + next;
        while (module->arguments[next].name && strcmp(module->arguments[next].owner, kernel->name) == 0)
            ++next, ++kernel->argument_count;
    }
    for (size_t i = 0; i < library->constant_count; ++i) {
        const struct emu_module_constant *constant = &module->constants[i];
        library->constants[i] =
            (emu_function_constant){constant->name, constant->index, type_named(constant->type), constant->required};
    }
    return true;
}

emu_library *emu_library_create(const char *source, size_t length, const emu_compile_options *options, char **error) {
    *error = NULL;
    emu_library *library = calloc(1, sizeof *library);
    char *request = NULL;
    if (library) {
        library->mode = options->mode;
        library->length = length;
        library->source = malloc(length + 1);
        library->request = common_request(options);
    }
    if (library && library->source && library->request)
        request = text("stage library\nmode fast\n%s", library->request);
    if (!request) {
        *error = text("out of memory");
        emu_library_destroy(library);
        return NULL;
    }
    memcpy(library->source, source, length);
    const bool loaded = emui_module_load(&library->module, request, library->source, length, NULL, error);
    free(request);
    if (loaded && describe(library))
        return library;
    if (loaded)
        *error = text("out of memory");
    emu_library_destroy(library);
    return NULL;
}

void emu_library_destroy(emu_library *library) {
    if (!library)
        return;
    emui_module_unload(&library->module);
    free(library->source);
    free(library->request);
    free(library->kernels);
    free(library->arguments);
    free(library->constants);
    free(library);
}

size_t emu_library_kernel_count(const emu_library *library) { return library->kernel_count; }

const emu_kernel *emu_library_kernel(const emu_library *library, size_t number) { return &library->kernels[number]; }

const emu_kernel *emu_library_find_kernel(const emu_library *library, const char *name) {
    for (size_t i = 0; i < library->kernel_count; ++i)
        if (strcmp(library->kernels[i].name, name) == 0)
            return &library->kernels[i];
    return NULL;
}

size_t emu_library_constant_count(const emu_library *library) { return library->constant_count; }

const emu_function_constant *emu_library_constant(const emu_library *library, size_t number) {
    return &library->constants[number];
}

bool emu_lint(const char *source, size_t length, const emu_compile_options *options, char **diagnostics) {
    char *common = common_request(options);
    char *request = common ? text("stage lint\nmode fast\n%s", common) : NULL;
    *diagnostics = NULL;
    const bool clean = request && emui_module_lint(request, source, length, diagnostics);
    if (!request)
        *diagnostics = text("out of memory");
    free(request);
    free(common);
    return clean;
}

// ------------------------------------------------------------------ pipelines

static const emu_constant_value *find_value(const emu_function_constant *constant, const emu_constant_value *values,
                                            size_t count) {
    for (size_t i = 0; i < count; ++i)
        if (values[i].name ? strcmp(values[i].name, constant->name) == 0 : values[i].index == constant->index)
            return &values[i];
    return NULL;
}

// Constants in the order of their declaration, so that equal pipelines make equal requests.
static char *pipeline_request(const emu_library *library, const char *kernel, const emu_constant_value *values,
                              size_t count, char **error) {
    char *request = NULL;
    size_t size = 0;
    FILE *lines = open_memstream(&request, &size);
    if (!lines)
        return NULL;
    fprintf(lines, "stage pipeline\nmode %s\n%skernel %s\n", library->mode == EMU_MODE_CHECKED ? "checked" : "fast",
            library->request, kernel);
    for (size_t i = 0; i < library->constant_count; ++i) {
        const emu_function_constant *constant = &library->constants[i];
        const emu_constant_value *value = find_value(constant, values, count);
        if (!value)
            continue;
        if (value->type != constant->type || constant->type == EMU_TYPE_OTHER) {
            if (!*error)
                *error =
                    text("the value of function constant '%s' has another type than its declaration", constant->name);
            continue;
        }
        fprintf(lines, "constant %s ", constant->name);
        for (size_t byte = 0; byte < types[constant->type].size; ++byte)
            fprintf(lines, "%02x", ((const unsigned char *)value->bytes)[byte]);
        fputc('\n', lines);
    }
    fclose(lines);
    return request;
}

static bool finish(emu_pipeline *pipeline, char **error) {
    const emui_module *module = &pipeline->module;
    pipeline->arguments = copy_arguments(module->arguments);
    if (!pipeline->arguments) {
        *error = text("out of memory");
        return false;
    }
    size_t count = 0;
    for (size_t i = 0; module->arguments[i].name; ++i)
        if (module->arguments[i].present)
            pipeline->arguments[count++] = pipeline->arguments[i];
    pipeline->kernel = (emu_kernel){module->kernels[0].name, pipeline->arguments, count};
    const uint32_t limit = module->kernels[0].max_threads;
    pipeline->max_threads = limit ? limit : EMU_MAX_THREADS_PER_THREADGROUP;
    for (const struct emu_variable *variable = module->variables; variable < module->variables_end; ++variable)
        pipeline->static_threadgroup_memory += (uint32_t)((variable->size + 15) / 16 * 16);
    if (pipeline->static_threadgroup_memory > EMU_MAX_THREADGROUP_MEMORY) {
        *error = text("kernel '%s' has %u bytes of threadgroup memory, but there are %d", pipeline->kernel.name,
                      pipeline->static_threadgroup_memory, EMU_MAX_THREADGROUP_MEMORY);
        return false;
    }
    return true;
}

emu_pipeline *emu_pipeline_create(const emu_library *library, const char *kernel, const emu_constant_value *values,
                                  size_t value_count, char **error) {
    *error = NULL;
    if (!emu_library_find_kernel(library, kernel)) {
        *error = text("the library has no kernel '%s'", kernel);
        return NULL;
    }
    emu_pipeline *pipeline = calloc(1, sizeof *pipeline);
    char *request = pipeline_request(library, kernel, values, value_count, error);
    bool made = pipeline && request && !*error;
    if (!made && !*error)
        *error = text("out of memory");
    if (made) {
        made =
            emui_module_load(&pipeline->module, request, library->source, library->length, &library->module, error) &&
            finish(pipeline, error);
    }
    free(request);
    if (made)
        return pipeline;
    emu_pipeline_destroy(pipeline);
    return NULL;
}

void emu_pipeline_destroy(emu_pipeline *pipeline) {
    if (!pipeline)
        return;
    emui_module_unload(&pipeline->module);
    free(pipeline->arguments);
    free(pipeline);
}

uint32_t emu_pipeline_max_threads(const emu_pipeline *pipeline) { return pipeline->max_threads; }

uint32_t emu_pipeline_static_threadgroup_memory(const emu_pipeline *pipeline) {
    return pipeline->static_threadgroup_memory;
}

const emu_kernel *emu_pipeline_kernel(const emu_pipeline *pipeline) { return &pipeline->kernel; }
