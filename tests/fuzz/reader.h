/*
 * Values out of the fuzzer's bytes. Each value takes bytes of its own from the front, so that changing or dropping a
 * byte changes one choice, and what is beyond the end reads as 0, which every caller makes its plainest choice.
 */
#ifndef FUZZ_READER_H
#define FUZZ_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    const uint8_t *at, *end;
} reader_t;

static inline uint64_t read_bits(reader_t *r, int bytes) {
    uint64_t bits = 0;
    for (int i = 0; i < bytes && r->at < r->end; ++i)
        bits |= (uint64_t)*r->at++ << 8 * i;
    return bits;
}

static inline bool read_is_at_end(const reader_t *r) { return r->at == r->end; }

/* In 0 .. count - 1, for counts up to 256. */
static inline int read_below(reader_t *r, int count) { return (int)(read_bits(r, 1) % (unsigned)count); }

/* True once in `of` values of the byte. */
static inline bool read_chance(reader_t *r, int of) { return read_below(r, of) == of - 1; }

#define READ_PICK(r, values) ((values)[read_below((r), (int)(sizeof(values) / sizeof *(values)))])

/* In least .. most, mostly where algorithms change: near 1, and within 1 of powers of two. */
static inline int64_t read_size(reader_t *r, int64_t least, int64_t most) {
    static const int64_t edges[] = {1,  2,  3,  4,  7,  8,  9,   15,  16,  17,  31,  32, 33,
                                    47, 48, 49, 63, 64, 65, 127, 128, 129, 255, 256, 257};
    enum { EDGES = sizeof edges / sizeof *edges };
    const int choice = read_below(r, 2 * EDGES + 2);
    int64_t size = choice < EDGES ? edges[choice] : choice < 2 * EDGES ? (int64_t)read_bits(r, 2) : 0;
    if (choice > 2 * EDGES)
        size = most;
    if (size > most)
        size = least + size % (most - least + 1);
    return size < least ? least : size;
}

/* Any 64 bits, mostly where arithmetic breaks: near 0, and near powers of two of either sign. */
static inline int64_t read_integer(reader_t *r) {
    const int kind = read_below(r, 4), shift = read_below(r, 64);
    if (kind == 0)
        return shift - 8;
    if (kind == 3)
        return (int64_t)read_bits(r, 8);
    const uint64_t power = (UINT64_C(1) << shift) + (uint64_t)read_below(r, 5) - 2;
    return (int64_t)(kind == 1 ? power : 0 - power);
}

/* Numbers from a seed, for the elements of tensors, of which an input would hold too few. */
static inline uint64_t next_random(uint64_t *state) {
    uint64_t x = *state += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

/* In -1 .. 1 */
static inline double next_uniform(uint64_t *state) { return (double)(next_random(state) >> 11) * 0x1p-52 - 1; }

#endif
