#define _GNU_SOURCE
#include "fiber.h"

#include "emulator.h"

#include <stdint.h>
#include <sys/mman.h>

enum { STACK_SIZE = 256 * 1024, GUARD_SIZE = 4096 };

static char *stacks;
static size_t guarded;

bool emui_fiber_reserve(size_t count) {
    if (!stacks) {
        void *memory = mmap(NULL, (size_t)STACK_SIZE * EMU_MAX_THREADS_PER_THREADGROUP, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
        if (memory == MAP_FAILED)
            return false;
        stacks = memory;
    }
    for (; guarded < count; ++guarded)
        if (mprotect(stacks + guarded * STACK_SIZE, GUARD_SIZE, PROT_NONE))
            return false;
    return true;
}

void emui_fiber_prepare(emui_fiber *fiber, size_t number, void (*main)(void)) {
    uintptr_t *top = (uintptr_t *)(stacks + (number + 1) * STACK_SIZE);
    *--top = 0; // main's return address; it also gives main the alignment that a call would
    *--top = (uintptr_t)main;
    fiber->stack_pointer = top - 6; // the registers that a switch restores
}

__asm__(".text\n"
        ".globl emui_fiber_switch\n"
        ".hidden emui_fiber_switch\n"
        ".type emui_fiber_switch, @function\n"
        "emui_fiber_switch:\n"
        "    pushq %rbp\n"
        "    pushq %rbx\n"
        "    pushq %r12\n"
        "    pushq %r13\n"
        "    pushq %r14\n"
        "    pushq %r15\n"
        "    movq %rsp, (%rdi)\n"
        "    movq (%rsi), %rsp\n"
        "    popq %r15\n"
        "    popq %r14\n"
        "    popq %r13\n"
        "    popq %r12\n"
        "    popq %rbx\n"
        "    popq %rbp\n"
        "    ret\n"
        ".size emui_fiber_switch, . - emui_fiber_switch\n");

bool emui_fiber_is_stack(const void *address) {
    return (uintptr_t)address - (uintptr_t)stacks < (uintptr_t)STACK_SIZE * EMU_MAX_THREADS_PER_THREADGROUP;
}

bool emui_fiber_is_stack_end(const void *address) {
    return emui_fiber_is_stack(address) && ((uintptr_t)address - (uintptr_t)stacks) % STACK_SIZE < GUARD_SIZE;
}
