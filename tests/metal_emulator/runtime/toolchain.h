// The compiler behind the emulator, and the cache of what it made.
#ifndef METAL_EMULATOR_TOOLCHAIN_H
#define METAL_EMULATOR_TOOLCHAIN_H

#include <stdbool.h>
#include <stddef.h>

// Fills in the path of the module for these inputs, compiling it unless the cache has it. `library` is the path of the
// library's module that a pipeline is made from; NULL: it is a library's.
// False: *messages says why. True: *messages has warnings or NULL, whether they were compiled now or before. To be freed.
bool emui_toolchain_module(const char *request, const char *source, size_t length, const char *library, char *path,
                           size_t path_size, char **messages);

// Runs the compiler without keeping anything. True if it has nothing to say against the source.
bool emui_toolchain_check(const char *request, const char *source, size_t length, char **messages);

#endif
