#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* sched_getaffinity */
#endif
#include "cpu/cpu_count.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cpu/lines.h"

#if defined(__linux__)
#include <sched.h>
#endif

/* Whether a list that commas separate, as "cpuset,cpu,cpuacct", has this word. */
static bool lists(const char *list, const char *word) {
    const size_t length = strlen(word);
    for (;;) {
        const size_t size = strcspn(list, ",");
        if (size == length && memcmp(list, word, length) == 0)
            return true;
        if (list[size] == '\0')
            return false;
        list += size + 1;
    }
}

/* One or two whole numbers at the start of a file; how many there are. A quota may be "max". */
static int read_numbers(const char *directory, const char *name, long numbers[2]) {
    char path[MFAI_LINE_SIZE + 32];
    mfai_lines_t file;
    snprintf(path, sizeof path, "%s/%s", directory, name);
    if (!mfai_lines_open(&file, path))
        return 0;
    const char *at = mfai_lines_next(&file);
    int count = 0;
    for (char *end; at != NULL && count < 2; at = end) {
        const long number = strtol(at, &end, 10); /* the nearest that fits where it does not */
        if (end == at)
            break;
        numbers[count++] = number;
    }
    mfai_lines_close(&file);
    return count;
}

static int lesser(int a, int b) { return a == 0 || (b > 0 && b < a) ? b : a; }

/* Of one cgroup: version 2 keeps quota and period, in microseconds, in one file, version 1 in two. */
static int group_quota(const char *directory, bool version_1) {
    long numbers[2] = {0, 100000}, period[2] = {0, 0};
    if (read_numbers(directory, version_1 ? "cpu.cfs_quota_us" : "cpu.max", numbers) == 0 || numbers[0] <= 0)
        return 0;
    if (!version_1)
        period[0] = numbers[1];
    else if (read_numbers(directory, "cpu.cfs_period_us", period) == 0)
        return 0;
    if (period[0] <= 0)
        return 0;
    const long processors = numbers[0] / period[0] + (numbers[0] % period[0] != 0);
    return processors < INT_MAX ? (int)processors : INT_MAX;
}

/* The least quota of the cgroup at `path` below `mount` and of those above it; 0 if none has one. */
static int least_quota(const char *mount, const char *path, bool version_1) {
    char directory[MFAI_LINE_SIZE];
    int least = 0;
    if (snprintf(directory, sizeof directory, "%s%s", mount, path) >= (int)sizeof directory)
        return 0;
    const size_t top = strlen(mount);
    for (size_t length = strlen(directory);; --length) {
        if (length == top || directory[length] == '/' || directory[length] == '\0') {
            directory[length] = '\0';
            least = lesser(least, group_quota(directory, version_1));
        }
        if (length == top)
            return least;
    }
}

/* Where `path`, as /proc/self/cgroup has it, lies below the cgroup that is mounted; NULL if it does not, as with
   "/../x", which is outside the process's cgroup namespace. */
static const char *below(const char *mounted, const char *path) {
    const size_t length = strcmp(mounted, "/") == 0 ? 0 : strlen(mounted);
    if (strncmp(path, mounted, length) != 0 || (path[length] != '\0' && path[length] != '/'))
        return NULL;
    path += length;
    if (strncmp(path, "/..", 3) == 0 && (path[3] == '\0' || path[3] == '/'))
        return NULL;
    return strcmp(path, "/") == 0 ? "" : path;
}

/* The kernel writes blanks and backslashes in a path as a backslash and three octal digits. */
static void unescape(char *text) {
    char *to = text;
    for (const char *from = text; *from != '\0'; ++to) {
        const bool escaped = from[0] == '\\' && from[1] >= '0' && from[1] <= '3' && from[2] >= '0' && from[2] <= '7' &&
                             from[3] >= '0' && from[3] <= '7';
        *to = escaped ? (char)((from[1] - '0') * 64 + (from[2] - '0') * 8 + (from[3] - '0')) : *from;
        from += escaped ? 4 : 1;
    }
    *to = '\0';
}

typedef struct {
    char *cgroup, *point, *type, *options;
} mount_t;

/* A line of mountinfo: number, parent, device, root, mount point, options, more fields, "-", type, source, super
   options. */
static bool parse_mount(char *line, mount_t *mount) {
    char *words[6], *rest = line;
    for (int i = 0; i < 6; ++i)
        if ((words[i] = strsep(&rest, " ")) == NULL)
            return false;
    char *word;
    while ((word = strsep(&rest, " ")) != NULL && strcmp(word, "-") != 0)
        ;
    mount->type = strsep(&rest, " ");
    if (mount->type == NULL || strsep(&rest, " ") == NULL || rest == NULL)
        return false;
    mount->options = rest;
    mount->cgroup = words[3];
    mount->point = words[4];
    unescape(mount->cgroup);
    unescape(mount->point);
    return true;
}

/* The least quota that a hierarchy's mounts show for the cgroup at `path`. */
static int hierarchy_quota(const char *mounts, const char *path, bool version_1) {
    mfai_lines_t lines;
    if (!mfai_lines_open(&lines, mounts))
        return 0;
    int least = 0;
    char *line;
    while ((line = mfai_lines_next(&lines)) != NULL) {
        mount_t mount;
        if (!parse_mount(line, &mount) || strcmp(mount.type, version_1 ? "cgroup" : "cgroup2") != 0 ||
            (version_1 && !lists(mount.options, "cpu")))
            continue;
        const char *inside = below(mount.cgroup, path);
        if (inside != NULL)
            least = lesser(least, least_quota(mount.point, inside, version_1));
    }
    mfai_lines_close(&lines);
    return least;
}

int mfai_cpu_quota(const char *mounts, const char *self) {
    mfai_lines_t lines;
    if (!mfai_lines_open(&lines, self))
        return 0;
    int least = 0;
    char *line;
    while ((line = mfai_lines_next(&lines)) != NULL) {
        /* number:controllers:path, where the path may have colons; version 2 names no controllers */
        char *path = line;
        strsep(&path, ":");
        const char *controllers = strsep(&path, ":");
        if (path == NULL)
            continue;
        const bool version_1 = *controllers != '\0';
        if (!version_1 || lists(controllers, "cpu"))
            least = lesser(least, hierarchy_quota(mounts, path, version_1));
    }
    mfai_lines_close(&lines);
    return least;
}

int mfai_cpu_count(void) {
    int count = (int)sysconf(_SC_NPROCESSORS_ONLN);
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        count = CPU_COUNT(&set);
    const int quota = mfai_cpu_quota("/proc/self/mountinfo", "/proc/self/cgroup");
    if (quota > 0 && quota < count)
        count = quota;
#endif
    return count > 0 ? count : 1;
}
