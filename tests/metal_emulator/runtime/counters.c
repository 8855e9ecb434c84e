#include "counters.h"

#include "launch.h"

#include <string.h>

emu_counters emui_counters;

void emu_counters_read(emu_counters *counters) {
    emui_launch_lock();
    *counters = emui_counters;
    emui_launch_unlock();
}

void emu_counters_reset(void) {
    emui_launch_lock();
    memset(&emui_counters, 0, sizeof emui_counters);
    emui_launch_unlock();
}
