#include "fault.h"

#include "launch.h"
#include "threadgroup.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static emu_fault fault;

const char *emu_fault_name(emu_fault_kind kind) {
    static const char *const names[] = {"none",  "launch", "out of bounds", "read only", "unwritten",
                                        "stale", "race",   "divergence",    "trap"};
    return names[kind];
}

void emui_fault_clear(void) { fault = (emu_fault){0}; }

bool emui_fault_raised(void) { return fault.kind != EMU_FAULT_NONE; }

const emu_fault *emui_fault_get(void) { return &fault; }

static void note(emu_fault_kind kind, const char *format, va_list arguments) {
    if (emui_fault_raised())
        return;
    fault.kind = kind;
    const uint32_t *group = emui_launch_position;
    int length =
        snprintf(fault.text, sizeof fault.text, "%s: kernel '%s', threadgroup (%u, %u, %u): ", emu_fault_name(kind),
                 emui_launch_kernel, group[0], group[1], group[2]);
    if (length >= 0 && (size_t)length < sizeof fault.text)
        vsnprintf(fault.text + length, sizeof fault.text - (size_t)length, format, arguments);
}

void emui_fault_note(emu_fault_kind kind, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    note(kind, format, arguments);
    va_end(arguments);
}

void emui_fault_raise(emu_fault_kind kind, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    note(kind, format, arguments);
    va_end(arguments);
    if (emui_self && emui_self->state == EMUI_READY)
        emui_threadgroup_abandon();
}

// addr2line gives inlined functions from the inside out; the first line outside the emulator's headers is the user's.
const char *emui_fault_source_line(const void *code, char *text, size_t size) {
    char command[1400], line[512];
    snprintf(text, size, "an unknown line");
    const size_t offset = (size_t)((const char *)code - emui_launch_module.base);
    if (snprintf(command, sizeof command, "addr2line -i -e '%s' 0x%zx 2>/dev/null", emui_launch_module.path, offset) >=
        (int)sizeof command)
        return text;
    FILE *pipe = popen(command, "r");
    if (!pipe)
        return text;
    bool found = false;
    while (fgets(line, sizeof line, pipe)) {
        const char *place = strncmp(line, "./", 2) == 0 ? line + 2 : line;
        if (found || place[0] == '?' || place[0] == '<' || strstr(line, "/<"))
            continue;
        found = true;
        line[strcspn(line, " \n")] = 0;
        snprintf(text, size, "%s", place);
    }
    pclose(pipe);
    return text;
}
