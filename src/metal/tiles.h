/* How the work of each pass is cut: a table by pass, format, head dimension and GPU family. */
#ifndef MFA_METAL_TILES_H
#define MFA_METAL_TILES_H

#include <stdbool.h>
#include <stdint.h>

typedef enum {
    MFAI_METAL_FORWARD,
    MFAI_METAL_DECODE,
    MFAI_METAL_BACKWARD_QUERY,
    MFAI_METAL_BACKWARD_KEY,
    MFAI_METAL_BACKWARD_BIAS,
    MFAI_METAL_PASSES
} mfai_metal_pass_t;

/* The tile of one pass at given head dimensions: macros of the kernel and what they cost. */
typedef struct {
    int rows, keys;         /* MFA_BQ, MFA_BK */
    int simdgroups;         /* MFA_SIMDGROUPS */
    int depth, depth_block; /* MFA_D, MFA_BD */
    int value_block;        /* MFA_DV */
    int64_t value_blocks;   /* threadgroups that share a tile of rows, each with columns of its own */
    bool resident;          /* MFA_RESIDENT */
    int registers;          /* of 32 bits that the tile's matrices take in each lane */
    int threadgroup_bytes;  /* declared by the kernel */
} mfai_metal_tile_t;

/* Apple GPU families as MTLGPUFamilyApple7 and so on count them. */
enum { MFAI_METAL_APPLE7 = 7, MFAI_METAL_APPLE9 = 9, MFAI_METAL_APPLE10 = 10 };

/* Registers of 32 bits that a thread has before it spills, and those kept for addresses and row state. */
enum { MFAI_METAL_REGISTERS = 128, MFAI_METAL_OTHER_REGISTERS = 32 };
enum { MFAI_METAL_THREADGROUP_BYTES = 32768 };

/**
 * @param family        7 or more
 * @param element_size  of query, key and value: 2 or 4
 */
mfai_metal_tile_t mfai_metal_tile(mfai_metal_pass_t pass, int family, int element_size, int64_t head_dim,
                                  int64_t value_dim);

/* Up to so many queries of a head are decoded: MFAI_METAL_DECODE and a combine, not MFAI_METAL_FORWARD. Beyond, the
   latter reads keys fewer times. */
enum { MFAI_METAL_DECODE_QUERIES = 8 };

/* Threadgroups that keep the largest GPU busy when each waits for memory. */
enum { MFAI_METAL_DECODE_THREADGROUPS = 512 };

/* MFA_SIMDGROUPS of attention_combine, which takes no other macro of a tile. */
enum { MFAI_METAL_COMBINE_SIMDGROUPS = 4 };

typedef struct {
    int64_t count, keys; /* of each split; a multiple of the tile's */
} mfai_metal_split_t;

/* How decode splits the keys, given how many threadgroups there are without: a function of the problem, so that results
   are too. */
mfai_metal_split_t mfai_metal_split(const mfai_metal_tile_t *tile, int64_t threadgroups, int64_t key_count);

#endif
