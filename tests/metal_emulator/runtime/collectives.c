// What lanes of a simdgroup do together: exchanges and 8x8 matrix products.
#include "counters.h"
#include "fault.h"
#include "kernel_calls.h"
#include "threadgroup.h"

#include <string.h>

typedef float float8 __attribute__((vector_size(32), aligned(32)));

uint64_t emu_exchange(const void *value, uint32_t size, const char *what, const char *file, int line) {
    emui_simdgroup *simdgroup = &emui_simdgroups[emui_self->simdgroup];
    char *values = simdgroup->values[simdgroup->turn];
    memcpy(values + (size_t)emui_self->lane * size, value, size);
    if (emui_meet(&simdgroup->meeting, (emui_site){what, file, line})) {
        // What a lane reads of a lane that does not exist is undefined: NaN.
        const uint32_t lanes = simdgroup->meeting.expected;
        memset(values + (size_t)lanes * size, 0xff, (size_t)(EMUI_VALUE_COUNT - lanes) * size);
        simdgroup->turn ^= 1;
        ++emui_counters.shuffles;
    }
    return (uint64_t)(uintptr_t)values;
}

bool emu_exchange_completed_here(void) { return emui_self->completed_here; }

static uint32_t place_in_matrix(uint32_t lane) {
    const uint32_t row = (lane >> 2 & 4) + (lane >> 1 & 3), column = (lane >> 1 & 4) + ((lane & 1) << 1);
    return 8 * row + column;
}

__attribute__((target("avx2,fma"))) static void multiply(const float *a, const float *b, const float *c, float *d) {
    for (int row = 0; row < 8; ++row) {
        float8 sum = *(const float8 *)(c + 8 * row);
        for (int k = 0; k < 8; ++k) {
            const float x = a[8 * row + k];
            sum += (float8){x, x, x, x, x, x, x, x} * *(const float8 *)(b + 8 * k);
        }
        *(float8 *)(d + 8 * row) = sum;
    }
}

static void require_full_simdgroup(const emui_simdgroup *simdgroup, const char *what, const char *file, int line) {
    if (simdgroup->meeting.expected != EMU_SIMD_WIDTH)
        emui_fault_raise(EMU_FAULT_DIVERGENCE, "%s at %s:%d in a simdgroup of %u threads, which needs all 32", what,
                         file, line, simdgroup->meeting.expected);
}

emui_float2 emu_matrix_multiply(emui_float2 a, emui_float2 b, emui_float2 c, const char *file, int line) {
    emui_simdgroup *simdgroup = &emui_simdgroups[emui_self->simdgroup];
    const uint32_t place = place_in_matrix(emui_self->lane);
    const char *what = "simdgroup_multiply_accumulate";
    require_full_simdgroup(simdgroup, what, file, line);
    memcpy(simdgroup->a + place, &a, sizeof a);
    memcpy(simdgroup->b + place, &b, sizeof b);
    memcpy(simdgroup->c + place, &c, sizeof c);
    float *product = simdgroup->product[simdgroup->turn];
    if (emui_meet(&simdgroup->meeting, (emui_site){what, file, line})) {
        multiply(simdgroup->a, simdgroup->b, simdgroup->c, product);
        simdgroup->turn ^= 1;
        ++emui_counters.matrix_multiplies;
    }
    memcpy(&a, product + place, sizeof a);
    return a;
}

// Each lane moves its own elements, so nobody has to wait; that all lanes came by is checked where they meet next.
void emu_matrix_access(const char *what, const char *file, int line) {
    emui_thread *self = emui_self;
    require_full_simdgroup(&emui_simdgroups[self->simdgroup], what, file, line);
    self->access = (emui_site){what, file, line};
    self->accesses = (self->accesses + (uint32_t)line) * 2654435761u;
}
