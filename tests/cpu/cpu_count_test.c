/* CPU quotas of cgroups, on a tree made for the purpose; and the affinity mask. */
#define _GNU_SOURCE
#include "cpu/cpu_count.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#if defined(__linux__)
#include <sched.h>
#endif

#include "check.h"

static char root[] = "/tmp/mfa_cpu_count_XXXXXX";

static const char *in_root(const char *path) {
    static char full[2][4096];
    static int turn;
    turn = !turn;
    snprintf(full[turn], sizeof full[turn], "%s/%s", root, path);
    return full[turn];
}

static void write_file(const char *path, const char *text) {
    FILE *file = fopen(in_root(path), "w");
    CHECK(file != NULL);
    if (file == NULL)
        return;
    fputs(text, file);
    fclose(file);
}

static int quota_of(const char *self) {
    write_file("self", self);
    return mfai_cpu_quota(root, in_root("self"));
}

int main(void) {
    CHECK(mkdtemp(root) != NULL);
    CHECK(mfai_cpu_quota(root, in_root("absent")) == 0);
    static const char *const directories[] = {"box", "box/inner", "cpu", "cpu/old"};
    for (size_t i = 0; i < sizeof directories / sizeof *directories; ++i)
        CHECK(mkdir(in_root(directories[i]), 0700) == 0);

    CHECK(quota_of("0::/box/inner\n") == 0);
    write_file("cpu.max", "max 100000\n");
    CHECK(quota_of("0::/box/inner\n") == 0);
    write_file("box/cpu.max", "250000 100000\n"); /* two and a half, rounded up */
    CHECK(quota_of("0::/box/inner\n") == 3);
    CHECK(quota_of("0::/box\n") == 3);
    CHECK(quota_of("0::/\n") == 0);
    write_file("box/inner/cpu.max", "max 100000\n");
    CHECK(quota_of("0::/box/inner\n") == 3);
    write_file("box/inner/cpu.max", "10000 50000\n");
    CHECK(quota_of("0::/box/inner\n") == 1);
    write_file("cpu.max", "150000 100000\n");
    CHECK(quota_of("0::/box\n") == 2);
    write_file("cpu.max", "nonsense");
    CHECK(quota_of("0::/box\n") == 3);

    write_file("cpu/old/cpu.cfs_quota_us", "400000\n");
    write_file("cpu/old/cpu.cfs_period_us", "100000\n");
    CHECK(quota_of("4:memory:/old\n3:cpu,cpuacct:/old\n") == 4);
    CHECK(quota_of("3:cpuset:/old\n") == 0);
    write_file("cpu/old/cpu.cfs_quota_us", "-1\n");
    CHECK(quota_of("3:cpu,cpuacct:/old\n") == 0);
    CHECK(quota_of("rubbish\n") == 0);
    CHECK(quota_of("") == 0);

    CHECK(mfai_cpu_count() >= 1);
#if defined(__linux__)
    cpu_set_t all, one;
    CHECK(sched_getaffinity(0, sizeof all, &all) == 0);
    CHECK(mfai_cpu_count() <= CPU_COUNT(&all));
    CPU_ZERO(&one);
    for (int cpu = 0; CPU_COUNT(&one) == 0; ++cpu)
        if (CPU_ISSET(cpu, &all))
            CPU_SET(cpu, &one);
    CHECK(sched_setaffinity(0, sizeof one, &one) == 0 && mfai_cpu_count() == 1);
#endif
    static const char *const files[] = {
        "self",        "cpu.max", "box/inner/cpu.max",        "box/inner",
        "box/cpu.max", "box",     "cpu/old/cpu.cfs_quota_us", "cpu/old/cpu.cfs_period_us",
        "cpu/old",     "cpu"};
    for (size_t i = 0; i < sizeof files / sizeof *files; ++i)
        CHECK(remove(in_root(files[i])) == 0);
    CHECK(rmdir(root) == 0);
    return check_report();
}
