#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* sched_getaffinity */
#endif
#include "cpu/cpu_count.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#if defined(__linux__)
#include <sched.h>
#endif

enum { PATH_SIZE = 4096 };

/* The whole number at the start of a file; false if there is none, as where a quota is "max". */
static bool read_number(const char *path, long *first, long *second) {
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return false;
    const int fields = fscanf(file, "%ld %ld", first, second);
    fclose(file);
    return fields >= 1;
}

/* Of one cgroup: version 2 keeps quota and period, in microseconds, in one file, version 1 in two. */
static int group_quota(const char *directory, bool version_1) {
    char path[PATH_SIZE + 32];
    long quota = 0, period = 100000, unused;
    snprintf(path, sizeof path, "%s/%s", directory, version_1 ? "cpu.cfs_quota_us" : "cpu.max");
    if (!read_number(path, &quota, version_1 ? &unused : &period) || quota <= 0)
        return 0;
    snprintf(path, sizeof path, "%s/cpu.cfs_period_us", directory);
    if (version_1 && !read_number(path, &period, &unused))
        return 0;
    return period > 0 ? (int)((quota + period - 1) / period) : 0;
}

/* The least quota of the cgroup at `path` below `mount` and of those above it; 0 if none has one. */
static int least_quota(const char *mount, const char *path, bool version_1) {
    char directory[PATH_SIZE];
    int least = 0;
    if (snprintf(directory, sizeof directory, "%s%s", mount, path) >= (int)sizeof directory)
        return 0;
    for (size_t length = strlen(directory); length >= strlen(mount); --length) {
        if (directory[length] != '\0' && directory[length] != '/')
            continue;
        directory[length] = '\0';
        const int quota = group_quota(directory, version_1);
        if (quota > 0 && (least == 0 || quota < least))
            least = quota;
        if (length == 0)
            break;
    }
    return least;
}

int mfai_cpu_quota(const char *root, const char *self) {
    FILE *file = fopen(self, "r");
    if (file == NULL)
        return 0;
    char line[PATH_SIZE], mount[PATH_SIZE];
    int least = 0;
    while (fgets(line, sizeof line, file) != NULL) {
        /* number:controllers:path; version 2 names no controllers */
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':');
        char *path = controllers != NULL ? strchr(controllers + 1, ':') : NULL;
        if (path == NULL)
            continue;
        *path++ = '\0';
        ++controllers;
        const bool version_1 = *controllers != '\0';
        if (version_1 && strcmp(controllers, "cpu") != 0 && strncmp(controllers, "cpu,", 4) != 0)
            continue;
        snprintf(mount, sizeof mount, "%s%s", root, version_1 ? "/cpu" : "");
        const int quota = least_quota(mount, path, version_1);
        if (quota > 0 && (least == 0 || quota < least))
            least = quota;
    }
    fclose(file);
    return least;
}

int mfai_cpu_count(void) {
    int count = (int)sysconf(_SC_NPROCESSORS_ONLN);
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        count = CPU_COUNT(&set);
    const int quota = mfai_cpu_quota("/sys/fs/cgroup", "/proc/self/cgroup");
    if (quota > 0 && quota < count)
        count = quota;
#endif
    return count > 0 ? count : 1;
}
