#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "calls.h"
#include "log.h"

static const char *const names[EMU_CALL_KINDS] = {
    [EMU_CALL_DEVICE] = "device",
    [EMU_CALL_QUEUE] = "queue",
    [EMU_CALL_BUFFER] = "buffer",
    [EMU_CALL_LIBRARY] = "library",
    [EMU_CALL_FUNCTION] = "function",
    [EMU_CALL_PIPELINE] = "pipeline",
    [EMU_CALL_COMMAND_BUFFER] = "command_buffer",
    [EMU_CALL_ENCODER] = "encoder",
    [EMU_CALL_EXECUTION] = "execution",
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned char *made; /* the kind of each call */
static size_t made_count, made_room, made_of_kind[EMU_CALL_KINDS];
static size_t failing;          /* 0: none */
static emu_call_kind fail_kind; /* EMU_CALL_KINDS: any */
static bool armed;              /* by the calls below or, once, by the environment */

const char *emu_call_kind_name(emu_call_kind kind) { return kind < EMU_CALL_KINDS ? names[kind] : "unknown"; }

static void arm(emu_call_kind kind, size_t number) {
    fail_kind = kind;
    failing = number;
    armed = true;
}

static void arm_from_environment(void) {
    const char *value = getenv("METAL_EMULATOR_FAIL");
    arm(EMU_CALL_KINDS, 0);
    if (!value || !*value)
        return;
    const char *colon = strchr(value, ':');
    emu_call_kind kind = EMU_CALL_KINDS;
    if (colon) {
        for (kind = 0; kind < EMU_CALL_KINDS; ++kind) {
            if (strlen(names[kind]) == (size_t)(colon - value) && strncmp(names[kind], value, colon - value) == 0)
                break;
        }
    }
    const char *digits = colon ? colon + 1 : value;
    char *end;
    const size_t number = strtoull(digits, &end, 10);
    if (end == digits || *end || (colon && kind == EMU_CALL_KINDS)) {
        fprintf(stderr, "METAL_EMULATOR_FAIL is '%s', expected N or KIND:N\n", value);
        abort(); /* a test that asked for a failure must not pass without one */
    }
    arm(kind, number);
}

static void remember(emu_call_kind kind) {
    if (made_count == made_room) {
        made_room = made_room ? 2 * made_room : 64;
        made = realloc(made, made_room);
        if (!made)
            abort();
    }
    made[made_count++] = kind;
    ++made_of_kind[kind];
}

bool emu_calls_fails(emu_call_kind kind) {
    pthread_mutex_lock(&lock);
    if (!armed)
        arm_from_environment();
    remember(kind);
    const bool fails =
        failing > 0 &&
        (fail_kind == EMU_CALL_KINDS ? made_count == failing : fail_kind == kind && made_of_kind[kind] == failing);
    char line[96];
    snprintf(line, sizeof line, "%s call %zu: " EMU_INJECTED, names[kind], made_of_kind[kind]);
    pthread_mutex_unlock(&lock);
    emu_log_to("METAL_EMULATOR_CALLS", names[kind]);
    if (fails)
        emu_log(line);
    return fails;
}

void emu_calls_reset(void) {
    pthread_mutex_lock(&lock);
    made_count = 0;
    memset(made_of_kind, 0, sizeof made_of_kind);
    armed = false;
    pthread_mutex_unlock(&lock);
}

size_t emu_calls_count(void) {
    pthread_mutex_lock(&lock);
    const size_t count = made_count;
    pthread_mutex_unlock(&lock);
    return count;
}

emu_call_kind emu_calls_kind(size_t number) {
    pthread_mutex_lock(&lock);
    const emu_call_kind kind = number >= 1 && number <= made_count ? made[number - 1] : EMU_CALL_KINDS;
    pthread_mutex_unlock(&lock);
    return kind;
}

void emu_calls_fail(size_t number) { emu_calls_fail_kind(EMU_CALL_KINDS, number); }

void emu_calls_fail_kind(emu_call_kind kind, size_t number) {
    pthread_mutex_lock(&lock);
    arm(kind, number);
    pthread_mutex_unlock(&lock);
}
