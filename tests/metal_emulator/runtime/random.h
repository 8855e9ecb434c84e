// Reproducible random numbers for schedules and perturbations.
#ifndef METAL_EMULATOR_RANDOM_H
#define METAL_EMULATOR_RANDOM_H

#include <stdint.h>

// splitmix64
static inline uint64_t emui_random(uint64_t *state) {
    uint64_t x = *state += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

#endif
