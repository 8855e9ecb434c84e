// Functions that kernels call: exponentials, which are counted, and results of fast:: functions, which may be moved.
#include "counters.h"
#include "kernel_calls.h"
#include "launch.h"
#include "random.h"

#include <math.h>
#include <string.h>

float emu_exp(float x) {
    ++emui_counters.exponentials;
    return expf(x);
}

float emu_exp2(float x) {
    ++emui_counters.exponentials;
    return exp2f(x);
}

float emu_exp10(float x) {
    ++emui_counters.exponentials;
    return (float)pow(10.0, x);
}

// Here, where the compiler's own reasoning about fast math cannot remove it.
float emu_promised_finite(float x) { return isfinite(x) ? x : 1.0f; }

// The same argument gives the same result, wherever in a launch it comes up.
float emu_perturb(float result) {
    if (!emui_launch_ulps || !isnormal(result))
        return result;
    uint32_t bits;
    memcpy(&bits, &result, sizeof bits);
    uint64_t state = emui_launch_seed ^ bits;
    const uint32_t spread = 2 * emui_launch_ulps + 1;
    bits += (uint32_t)(emui_random(&state) % spread) - emui_launch_ulps;
    float moved;
    memcpy(&moved, &bits, sizeof moved);
    return isnormal(moved) ? moved : result;
}

// Older libgcc lack it. To nearest even.
float __truncsfbf2(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (isnan(x))
        bits = bits >> 16 | 0x40;
    else
        bits = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    memcpy(&x, &bits, sizeof x);
    return x;
}
