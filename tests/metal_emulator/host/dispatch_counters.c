#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "dispatch_counters.h"
#include "log.h"

static const char variable[] = "METAL_EMULATOR_COUNTERS";

static void write_line(const emu_dispatch_size *size, const emu_counters *before, const emu_counters *after) {
#define COUNTED(counter) after->counter - before->counter
    char line[1024];
    snprintf(line, sizeof line,
             "{\"kernel\": \"%s\", \"threadgroups\": %" PRIu64 ", \"threads\": %" PRIu64
             ", \"threadgroup_bytes_allocated\": %" PRIu64 ", \"matrix_multiplies\": %" PRIu64
             ", \"exponentials\": %" PRIu64 ", \"device_bytes_loaded\": %" PRIu64 ", \"device_bytes_stored\": %" PRIu64
             ", \"threadgroup_bytes_loaded\": %" PRIu64 ", \"threadgroup_bytes_stored\": %" PRIu64
             ", \"threadgroup_barriers\": %" PRIu64 ", \"simdgroup_barriers\": %" PRIu64 ", \"shuffles\": %" PRIu64 "}",
             size->kernel, size->threadgroups, size->threads, size->threadgroup_memory, COUNTED(matrix_multiplies),
             COUNTED(exponentials), COUNTED(device_bytes_loaded), COUNTED(device_bytes_stored),
             COUNTED(threadgroup_bytes_loaded), COUNTED(threadgroup_bytes_stored), COUNTED(threadgroup_barriers),
             COUNTED(simdgroup_barriers), COUNTED(shuffles));
#undef COUNTED
    emu_log_to(variable, line);
}

bool emu_run_counted(const emu_pipeline *pipeline, const emu_launch *launch, const emu_dispatch_size *size,
                     emu_fault *fault) {
    static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER; /* or counts of another queue would mix in */
    const char *path = getenv(variable);
    if (!path || !*path)
        return emu_run(pipeline, launch, fault);
    emu_counters before, after;
    pthread_mutex_lock(&one_at_a_time);
    emu_counters_read(&before);
    const bool went_well = emu_run(pipeline, launch, fault);
    emu_counters_read(&after);
    if (went_well)
        write_line(size, &before, &after);
    pthread_mutex_unlock(&one_at_a_time);
    return went_well;
}
