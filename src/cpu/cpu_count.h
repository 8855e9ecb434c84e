#ifndef MFA_CPU_CPU_COUNT_H
#define MFA_CPU_CPU_COUNT_H

/* Processors this process may use: the affinity mask, cut by the cgroup's CPU quota; at least 1. */
int mfai_cpu_count(void);

/*
 * Processors that CPU quotas are worth, rounded up; 0 if there is none. A process is bound by the quota of its cgroup
 * and of each one above it that is mounted. Needs no memory and little stack; lines and paths of 512 bytes or more are
 * passed over.
 * @param mounts  what is mounted where, as in /proc/self/mountinfo
 * @param self    the process's list of cgroups, as in /proc/self/cgroup
 */
int mfai_cpu_quota(const char *mounts, const char *self);

#endif
