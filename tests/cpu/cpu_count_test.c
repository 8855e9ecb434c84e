/* CPU quotas of cgroups, on a tree made for the purpose; and the affinity mask. */
#define _GNU_SOURCE
#include "cpu/cpu_count.h"

#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#if defined(__linux__)
#include <sched.h>
#endif

#include "check.h"
#include "cpu/lines.h"

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

/* The hierarchies that have the CPU controller, mounted below the root: version 2 in `two`, version 1 in `cpu`. */
static void mount_both(const char *mounted_2, const char *mounted_1) {
    char text[2048];
    snprintf(text, sizeof text,
             "22 1 0:21 / /proc rw,relatime shared:5 - proc proc rw\n"
             "30 25 0:26 %s %s/two rw,nosuid shared:4 master:9 - cgroup2 cgroup rw,nsdelegate\n"
             "31 25 0:27 / %s/cpuset rw - cgroup cgroup rw,cpuset\n"
             "32 25 0:28 %s %s/with\\040blank rw - cgroup cgroup rw,cpuacct,cpu,name=x\n",
             mounted_2, root, root, mounted_1, root);
    write_file("mounts", text);
}

static int quota_of(const char *self) {
    write_file("self", self);
    return mfai_cpu_quota(in_root("mounts"), in_root("self"));
}

static void check_version_2(void) {
    CHECK(quota_of("0::/box/inner\n") == 0);
    write_file("two/cpu.max", "max 100000\n");
    CHECK(quota_of("0::/box/inner\n") == 0);
    write_file("two/box/cpu.max", "250000 100000\n"); /* two and a half, rounded up */
    CHECK(quota_of("0::/box/inner\n") == 3);
    CHECK(quota_of("0::/box") == 3); /* without a newline */
    CHECK(quota_of("0::/\n") == 0);
    write_file("two/box/inner/cpu.max", "max 100000\n");
    CHECK(quota_of("0::/box/inner\n") == 3);
    write_file("two/box/inner/cpu.max", "10000 50000\n");
    CHECK(quota_of("0::/box/inner\n") == 1);
    CHECK(quota_of("0::/box/inner/not/there\n") == 1);
    write_file("two/cpu.max", "150000 100000\n");
    CHECK(quota_of("0::/box\n") == 2);
    write_file("two/cpu.max", "nonsense");
    CHECK(quota_of("0::/box\n") == 3);
    static const char *const none[] = {"", "0 100000\n", "-1 100000\n", "100000 0\n", "100000 -5\n"};
    for (size_t i = 0; i < sizeof none / sizeof *none; ++i) {
        write_file("two/cpu.max", none[i]);
        CHECK(quota_of("0::/\n") == 0);
    }
    write_file("two/cpu.max", "200000\n");
    CHECK(quota_of("0::/\n") == 2);
    write_file("two/cpu.max", "9223372036854775807 2\n");
    CHECK(quota_of("0::/\n") == INT_MAX);
    write_file("two/cpu.max", "9223372036854775807 9223372036854775806\n");
    CHECK(quota_of("0::/\n") == 2);
    write_file("two/cpu.max", "99999999999999999999999 100000\n");
    CHECK(quota_of("0::/\n") == INT_MAX);
    write_file("two/cpu.max", "max 100000\n");
}

/* What is mounted need not be the hierarchy's root, as in a container that shares its host's namespace of cgroups. */
static void check_parts(void) {
    mount_both("/docker/id", "/");
    write_file("two/box/cpu.max", "250000 100000\n");
    CHECK(quota_of("0::/docker/id/box\n") == 3);
    CHECK(quota_of("0::/docker/id\n") == 0);
    CHECK(quota_of("0::/docker/id2/box\n") == 0);
    CHECK(quota_of("0::/box\n") == 0);
    mount_both("/", "/");
    write_file("cpu.max", "100000 100000\n"); /* above the mount */
    CHECK(quota_of("0::/../two/box\n") == 0);
    CHECK(quota_of("0::/..\n") == 0);
    CHECK(quota_of("0::/..box\n") == 0);
    write_file("two/a:b/cpu.max", "500000 100000\n");
    CHECK(quota_of("0::/a:b\n") == 5);
}

static void check_version_1(void) {
    write_file("with blank/old/cpu.cfs_quota_us", "400000\n");
    CHECK(quota_of("3:cpu,cpuacct:/old\n") == 0); /* no period */
    write_file("with blank/old/cpu.cfs_period_us", "100000\n");
    static const char *const named[] = {"3:cpu:/old\n", "4:memory:/old\n3:cpu,cpuacct:/old\n", "4:cpuacct,cpu:/old\n",
                                        "3:cpuset,cpu,cpuacct:/old\n", "3:cpu,name=x:/old\n1:name=systemd:/\n0::/\n"};
    for (size_t i = 0; i < sizeof named / sizeof *named; ++i)
        CHECK(quota_of(named[i]) == 4);
    static const char *const other[] = {
        "3:cpuset:/old\n", "3:cpuacct:/old\n", "3:name=cpu:/old\n", "3:cpu", "3:cpu\n", "rubbish\n", "", "\n", ":\n",
        "3:,:/old\n"};
    for (size_t i = 0; i < sizeof other / sizeof *other; ++i)
        CHECK(quota_of(other[i]) == 0);
    CHECK(quota_of("3:cpuacct,cpu:/old\n0::/box/inner\n") == 1); /* the least of both */
    CHECK(quota_of("0::/a:b\n3:cpuacct,cpu:/old\n") == 4);
    write_file("with blank/old/cpu.cfs_quota_us", "-1\n");
    CHECK(quota_of("3:cpu,cpuacct:/old\n") == 0);
    write_file("with blank/old/cpu.cfs_quota_us", "400000\n");
}

/* Lines as long as the buffer and longer, before and after the one that counts, are passed over, whole. */
static void check_long_lines(void) {
    char self[8192], line[4096];
    for (int size = MFAI_LINE_SIZE - 16; size < MFAI_LINE_SIZE + 16; ++size)
        for (int times = 1; times < 4; ++times) {
            memset(line, 'x', sizeof line);
            line[size * times] = '\0';
            snprintf(self, sizeof self, "0::/a:b/%.2000s\n3:cpu:/old\n0::/a:b/%.2000s", line, line);
            CHECK(quota_of(self) == 4);
            snprintf(self, sizeof self, "4:memory:/%.2000s0::/a:b\n", line);
            CHECK(quota_of(self) == 0);
        }
    static const char *const broken[] = {"30 25 0:26 / /two rw - cgroup2",     "30 25 0:26 / /two rw", "30 25 0:26",
                                         "30 25 0:26 / /two rw - cgroup2 x\n", "- - - - - - - - -\n",  "\n"};
    for (size_t i = 0; i < sizeof broken / sizeof *broken; ++i) {
        write_file("mounts", broken[i]);
        CHECK(quota_of("0::/box/inner\n") == 0);
    }
}

int main(void) {
    CHECK(mkdtemp(root) != NULL);
    static const char *const directories[] = {"two",     "two/box",    "two/box/inner",
                                              "two/a:b", "with blank", "with blank/old"};
    for (size_t i = 0; i < sizeof directories / sizeof *directories; ++i)
        CHECK(mkdir(in_root(directories[i]), 0700) == 0);
    CHECK(quota_of("0::/box/inner\n") == 0); /* no list of mounts */
    mount_both("/", "/");
    CHECK(mfai_cpu_quota(in_root("mounts"), in_root("absent")) == 0);
    check_version_2();
    check_parts();
    check_version_1();
    check_long_lines();

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
    static const char *const files[] = {"self",
                                        "mounts",
                                        "cpu.max",
                                        "two/cpu.max",
                                        "two/box/cpu.max",
                                        "two/box/inner/cpu.max",
                                        "two/a:b/cpu.max",
                                        "with blank/old/cpu.cfs_quota_us",
                                        "with blank/old/cpu.cfs_period_us"};
    for (size_t i = 0; i < sizeof files / sizeof *files; ++i)
        CHECK(remove(in_root(files[i])) == 0);
    for (size_t i = sizeof directories / sizeof *directories; i > 0; --i)
        CHECK(rmdir(in_root(directories[i - 1])) == 0);
    CHECK(rmdir(root) == 0);
    return check_report();
}
