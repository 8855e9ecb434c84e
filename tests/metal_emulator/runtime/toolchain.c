#define _GNU_SOURCE
#include "toolchain.h"

#include "digest.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

enum { PATH_SIZE = 1024 };

static char *message(const char *format, const char *what, const char *why) {
    char *text = NULL;
    return asprintf(&text, format, what, why) < 0 ? NULL : text;
}

static const char *setting(const char *name, const char *otherwise) {
    const char *value = getenv(name);
    return value && *value ? value : otherwise;
}

static bool is_file(const char *folder, const char *name) {
    char path[PATH_SIZE];
    return snprintf(path, sizeof path, "%s/%s", folder, name) < PATH_SIZE && access(path, R_OK) == 0;
}

static const char *home(void) {
    const char *folder = setting("METAL_EMULATOR_HOME", NULL);
    return folder && is_file(folder, "compiler/compile_module.py") ? folder : NULL;
}

static bool make_folders(char *path) {
    for (char *end = path + 1; *end; ++end) {
        if (*end != '/')
            continue;
        *end = 0;
        const bool failed = mkdir(path, 0777) && errno != EEXIST;
        *end = '/';
        if (failed)
            return false;
    }
    return !mkdir(path, 0777) || errno == EEXIST;
}

// The cache's folder, made if need be. False: errno says why.
static bool cache_folder(char *path) {
    const char *chosen = setting("METAL_EMULATOR_CACHE", NULL), *common = setting("XDG_CACHE_HOME", NULL);
    if (chosen)
        snprintf(path, PATH_SIZE, "%s", chosen);
    else if (common)
        snprintf(path, PATH_SIZE, "%s/metal_emulator", common);
    else
        snprintf(path, PATH_SIZE, "%s/.cache/metal_emulator", setting("HOME", "/tmp"));
    return make_folders(path);
}

// ------------------------------------------------------------------ files and processes

static char *read_file(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    if (!file)
        return NULL;
    char *bytes = NULL;
    FILE *copy = open_memstream(&bytes, size);
    char block[4096];
    for (size_t got; copy && (got = fread(block, 1, sizeof block, file)) > 0;)
        fwrite(block, 1, got, copy);
    fclose(file);
    if (copy)
        fclose(copy);
    return bytes;
}

static bool write_file(const char *folder, const char *name, const char *bytes, size_t size) {
    char path[PATH_SIZE];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    if (!file)
        return false;
    const bool written = fwrite(bytes, 1, size, file) == size;
    return fclose(file) == 0 && written;
}

// Runs a command with its standard error, and its output if wanted, in a file. Its exit status, or -1.
static int run(char *const command[], const char *output_path) {
    posix_spawn_file_actions_t actions;
    pid_t process;
    int status = -1;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, output_path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    posix_spawn_file_actions_adddup2(&actions, STDERR_FILENO, STDOUT_FILENO);
    if (posix_spawnp(&process, command[0], &actions, NULL, command, environ) == 0) {
        while (waitpid(process, &status, 0) < 0 && errno == EINTR) {
        }
        status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    }
    posix_spawn_file_actions_destroy(&actions);
    return status;
}

// A folder of one compilation; removed with all that the compiler may leave there.
static bool begin_folder(char *folder, const char *cache) {
    return snprintf(folder, PATH_SIZE, "%s/build.XXXXXX", cache) < PATH_SIZE && mkdtemp(folder);
}

static void remove_folder(const char *folder) {
    static const char *const files[] = {"request",   "source",   "messages",  "program.cl",  "program.i",
                                        "module.cl", "module.o", "module.so", "library.json"};
    char path[PATH_SIZE + 16];
    for (size_t i = 0; i < sizeof files / sizeof files[0]; ++i) {
        snprintf(path, sizeof path, "%s/%s", folder, files[i]);
        unlink(path);
    }
    rmdir(folder);
}

// ------------------------------------------------------------------ identity

static void add_folder(emui_digest *digest, const char *folder) {
    struct dirent **entries;
    const int count = scandir(folder, &entries, NULL, alphasort);
    for (int i = 0; i < count; ++i) {
        char path[PATH_SIZE];
        size_t size = 0;
        struct stat status;
        const bool fits = snprintf(path, sizeof path, "%s/%s", folder, entries[i]->d_name) < PATH_SIZE;
        if (fits && stat(path, &status) == 0 && S_ISREG(status.st_mode)) {
            char *bytes = read_file(path, &size);
            emui_digest_add(digest, bytes, bytes ? size : 0);
            free(bytes);
        }
        free(entries[i]);
    }
    if (count >= 0)
        free(entries);
}

static emui_digest tools;

static void identify_tools(void) {
    char path[PATH_SIZE], cache[PATH_SIZE], folder[PATH_SIZE];
    size_t size = 0;
    tools = emui_digest_begin();
    snprintf(path, sizeof path, "%s/compiler", home());
    add_folder(&tools, path);
    snprintf(path, sizeof path, "%s/msl", home());
    add_folder(&tools, path);
    snprintf(path, sizeof path, "%s/kernel_interface.h", home());
    char *interface = read_file(path, &size);
    emui_digest_add(&tools, interface, interface ? size : 0);
    free(interface);
    char *command[] = {(char *)setting("METAL_EMULATOR_CLANG", "clang-19"), "--version", NULL};
    if (!cache_folder(cache) || !begin_folder(folder, cache))
        return;
    snprintf(path, sizeof path, "%.*s/messages", PATH_SIZE - 16, folder);
    run(command, path);
    char *version = read_file(path, &size);
    emui_digest_add(&tools, version, version ? size : 0);
    free(version);
    remove_folder(folder);
}

static void name_module(const char *request, const char *source, size_t length, char name[EMUI_DIGEST_TEXT]) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, identify_tools);
    emui_digest digest = tools;
    emui_digest_add(&digest, request, strlen(request));
    emui_digest_add(&digest, source, length);
    emui_digest_text(&digest, name);
}

// ------------------------------------------------------------------ compilation

// What the compiler said; NULL: nothing.
static char *read_messages(const char *path) {
    size_t size = 0;
    char *text = read_file(path, &size);
    if (text && size > 0)
        return text;
    free(text);
    return NULL;
}

// In `folder`. `library`: what the library's compilation left for its pipelines, or NULL.
static bool compile(const char *folder, const char *cache, const char *request, const char *source, size_t length,
                    const char *library, char **messages) {
    char script[PATH_SIZE], output[PATH_SIZE + 16], bytecode[PATH_SIZE + 32];
    snprintf(script, sizeof script, "%s/compiler/compile_module.py", home());
    snprintf(output, sizeof output, "%s/messages", folder);
    snprintf(bytecode, sizeof bytecode, "pycache_prefix=%s/python", cache);
    if (!write_file(folder, "request", request, strlen(request)) || !write_file(folder, "source", source, length)) {
        *messages = message("cannot write to %s: %s", folder, strerror(errno));
        return false;
    }
    char *command[] = {
        (char *)setting("METAL_EMULATOR_PYTHON", "python3"), "-SE",           "-X", bytecode, script, (char *)folder,
        (char *)setting("METAL_EMULATOR_CLANG", "clang-19"), (char *)library, NULL};
    const int status = run(command, output);
    *messages = read_messages(output);
    if (status != 0 && !*messages)
        *messages = message("cannot run %s%s", command[0], "");
    return status == 0;
}

static bool prepare(char *cache, char *folder, char **messages) {
    if (!home())
        *messages = message("%s is not the folder of the Metal emulator%s", "METAL_EMULATOR_HOME", "");
    else if (!cache_folder(cache) || !begin_folder(folder, cache))
        *messages = message("cannot write to %s: %s", cache, strerror(errno));
    return !*messages;
}

// An entry of the cache has a module's path, but for its ending: .so, .messages if there are any, and .json of a library.
static void entry_file(char *file, const char *module_path, const char *ending) {
    snprintf(file, PATH_SIZE + 16, "%.*s%s", (int)(strlen(module_path) - strlen(".so")), module_path, ending);
}

// Whoever else compiles the same makes the same: the last one to rename wins.
static bool keep_file(const char *folder, const char *name, const char *module_path, const char *ending) {
    char made[PATH_SIZE + 16], kept[PATH_SIZE + 16];
    snprintf(made, sizeof made, "%s/%s", folder, name);
    entry_file(kept, module_path, ending);
    return rename(made, kept) == 0;
}

// The module last: where it is, the entry is whole.
static bool keep(const char *folder, const char *path, bool is_library, bool has_messages) {
    return (!has_messages || keep_file(folder, "messages", path, ".messages")) &&
           (!is_library || keep_file(folder, "library.json", path, ".json")) &&
           keep_file(folder, "module.so", path, ".so");
}

bool emui_toolchain_module(const char *request, const char *source, size_t length, const char *library, char *path,
                           size_t path_size, char **messages) {
    char cache[PATH_SIZE], folder[PATH_SIZE], name[EMUI_DIGEST_TEXT], file[PATH_SIZE + 16];
    *messages = NULL;
    if (home() && cache_folder(cache)) {
        name_module(request, source, length, name);
        snprintf(path, path_size, "%s/%s.so", cache, name);
        if (access(path, R_OK) == 0) {
            entry_file(file, path, ".messages");
            *messages = read_messages(file);
            return true;
        }
    }
    if (!prepare(cache, folder, messages))
        return false;
    if (library)
        entry_file(file, library, ".json");
    bool success = compile(folder, cache, request, source, length, library ? file : NULL, messages);
    if (success && !keep(folder, path, !library, *messages != NULL)) {
        free(*messages);
        *messages = message("cannot write %s: %s", path, strerror(errno));
        success = false;
    }
    remove_folder(folder);
    return success;
}

bool emui_toolchain_check(const char *request, const char *source, size_t length, char **messages) {
    char cache[PATH_SIZE], folder[PATH_SIZE];
    *messages = NULL;
    if (!prepare(cache, folder, messages))
        return false;
    const bool clean = compile(folder, cache, request, source, length, NULL, messages);
    remove_folder(folder);
    return clean;
}
