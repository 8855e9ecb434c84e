#define _GNU_SOURCE
#include "signals.h"

#include "fault.h"
#include "fiber.h"
#include "region.h"
#include "threadgroup.h"

#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>

enum { SIGNAL_COUNT = 4, STACK_SIZE = 256 * 1024 };

static const int signals[SIGNAL_COUNT] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
static struct sigaction previous[SIGNAL_COUNT];
static stack_t previous_stack;
static pthread_t thread;

// The trap as the handler saw it; reported after the handler, where anything may be called.
static struct {
    int number;
    uintptr_t address;
    const void *code;
} trap;

// Runs in place of the code that trapped, on a stack of its own: the thread's may be full.
static _Alignas(16) char report_stack[STACK_SIZE];

static void report(void) {
    char place[400], line[400];
    const emui_thread *self = emui_self;
    emui_fault_source_line(trap.code, line, sizeof line);
    if (emui_fiber_is_stack_end((const void *)trap.address))
        emui_fault_raise(EMU_FAULT_TRAP,
                         "thread %u (simdgroup %u, lane %u) has more variables than its stack holds at %s", self->index,
                         self->simdgroup, self->lane, line);
    if (trap.number == SIGFPE || trap.number == SIGILL)
        emui_fault_raise(EMU_FAULT_TRAP, "thread %u (simdgroup %u, lane %u) %s at %s", self->index, self->simdgroup,
                         self->lane, trap.number == SIGFPE ? "divides an integer by zero" : "cannot go on", line);
    emui_region_describe(trap.address, 1, place, sizeof place);
    emui_fault_raise(EMU_FAULT_OUT_OF_BOUNDS, "thread %u (simdgroup %u, lane %u) touches %s at %s", self->index,
                     self->simdgroup, self->lane, place, line);
}

static void handle(int number, siginfo_t *info, void *opaque) {
    ucontext_t *context = opaque;
    if (!pthread_equal(pthread_self(), thread) || !emui_self || emui_fault_raised()) {
        // Not a kernel's: whoever handled it before does so when the instruction traps again.
        for (int i = 0; i < SIGNAL_COUNT; ++i)
            if (signals[i] == number)
                sigaction(number, &previous[i], NULL);
        return;
    }
    greg_t *registers = context->uc_mcontext.gregs;
    trap.number = number;
    trap.address = (uintptr_t)info->si_addr;
    trap.code = (const void *)(uintptr_t)registers[REG_RIP];
    registers[REG_RIP] = (greg_t)(uintptr_t)report;
    registers[REG_RSP] = (greg_t)(uintptr_t)(report_stack + STACK_SIZE - 8);
}

bool emui_signals_begin(void) {
    static char handler_stack[64 * 1024];
    const stack_t stack = {.ss_sp = handler_stack, .ss_size = sizeof handler_stack};
    struct sigaction action = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    thread = pthread_self();
    if (sigaltstack(&stack, &previous_stack))
        return false;
    for (int i = 0; i < SIGNAL_COUNT; ++i)
        if (sigaction(signals[i], &action, &previous[i]))
            return false;
    return true;
}

void emui_signals_end(void) {
    for (int i = 0; i < SIGNAL_COUNT; ++i)
        sigaction(signals[i], &previous[i], NULL);
    sigaltstack(&previous_stack, NULL);
}
