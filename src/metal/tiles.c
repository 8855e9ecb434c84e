#include "metal/tiles.h"

#include "core/integers.h"

/*
 * A row holds from a GPU family on and for head dimensions up to `most`, the larger of head_dim and value_dim; the
 * first that fits is taken, so newer families and smaller dimensions come first. The last row of a format has no limit:
 * what exceeds its `block` is staged (keys) or divided among threadgroups (values) in blocks of at most that many
 * columns.
 *
 * Forward: registers hold queries (if resident), scores, what masks add to them, and sums of values; threadgroup memory
 * a block of keys, one of values, and two rounds of votes. Decode: registers hold the same; threadgroup memory the
 * sums, and each simdgroup's row state.
 *
 * Backward: a simdgroup owns 8 rows (dQ, dBias) or 8 keys (dK and dV) and keeps both their operands or neither.
 * Registers also hold products for scores and for gradients of weights, and the sums; threadgroup memory a block of
 * each operand that is visited. What exceeds `block` is staged in blocks, and the sums are divided among threadgroups,
 * which each repeat all products: so dK and dV, whose sums fill the registers first, do a half more at 256 than they
 * need.
 *
 * Apple9 hands out registers and threadgroup memory as a kernel uses them, from one memory on the chip ("Dynamic
 * Caching", Apple's tech talk on M3), so that large tiles cost less occupancy than before. The tables that
 * philipturner/metal-flash-attention measured (AttentionDescriptor+Parameters.swift) agree: on M3 and later, sums stay
 * in registers for more columns than on M1 and M2 (forward 160 instead of 96, dQ 192 instead of 96, dK and dV 144
 * instead of 32), beside tiles that visit 64 or 128 rows at once. So its rows here visit twice as many rows between
 * barriers wherever that fits the same budgets and a simdgroup keeps as many rows of its own; others are Apple7's. This
 * follows from those facts and was not measured on Apple9 or later.
 */
typedef struct {
    mfai_metal_pass_t pass;
    int family, element_size;
    int most; /* head dimension; 0: any */
    int rows, keys, simdgroups;
    bool resident;
    int block;
} row_t;

static const row_t table[] = {
    /* pass               family            size most rows keys groups resident block */
    {MFAI_METAL_FORWARD, MFAI_METAL_APPLE9, 2, 64, 64, 32, 4, true, 64},
    {MFAI_METAL_FORWARD, MFAI_METAL_APPLE9, 2, 96, 64, 64, 8, true, 96},
    {MFAI_METAL_FORWARD, MFAI_METAL_APPLE9, 2, 192, 64, 32, 8, true, 192},
    {MFAI_METAL_FORWARD, MFAI_METAL_APPLE9, 4, 32, 64, 32, 4, true, 32},
    {MFAI_METAL_FORWARD, MFAI_METAL_APPLE9, 4, 48, 64, 64, 8, true, 48},
    {MFAI_METAL_FORWARD, MFAI_METAL_APPLE9, 4, 96, 64, 32, 8, true, 96},
    {MFAI_METAL_FORWARD, MFAI_METAL_APPLE7, 2, 64, 64, 32, 4, true, 64},
    {MFAI_METAL_FORWARD, MFAI_METAL_APPLE7, 2, 128, 64, 32, 8, true, 128},
    {MFAI_METAL_FORWARD, MFAI_METAL_APPLE7, 2, 192, 64, 16, 8, true, 192},
    {MFAI_METAL_FORWARD, MFAI_METAL_APPLE7, 2, 256, 64, 16, 8, false, 256},
    {MFAI_METAL_FORWARD, MFAI_METAL_APPLE7, 2, 0, 64, 16, 8, false, 160},
    {MFAI_METAL_FORWARD, MFAI_METAL_APPLE7, 4, 32, 64, 32, 4, true, 32},
    {MFAI_METAL_FORWARD, MFAI_METAL_APPLE7, 4, 64, 64, 32, 8, true, 64},
    {MFAI_METAL_FORWARD, MFAI_METAL_APPLE7, 4, 128, 64, 16, 8, true, 128},
    {MFAI_METAL_FORWARD, MFAI_METAL_APPLE7, 4, 192, 64, 16, 8, false, 192},
    {MFAI_METAL_FORWARD, MFAI_METAL_APPLE7, 4, 256, 64, 8, 8, false, 256},
    {MFAI_METAL_FORWARD, MFAI_METAL_APPLE7, 4, 0, 64, 8, 8, false, 160},

    {MFAI_METAL_DECODE, MFAI_METAL_APPLE7, 2, 192, 8, 32, 8, true, 192},
    {MFAI_METAL_DECODE, MFAI_METAL_APPLE7, 2, 0, 8, 32, 8, false, 256},
    {MFAI_METAL_DECODE, MFAI_METAL_APPLE7, 4, 128, 8, 32, 8, true, 128},
    {MFAI_METAL_DECODE, MFAI_METAL_APPLE7, 4, 0, 8, 32, 8, false, 256},

    {MFAI_METAL_BACKWARD_QUERY, MFAI_METAL_APPLE9, 2, 96, 32, 64, 4, true, 96},
    {MFAI_METAL_BACKWARD_QUERY, MFAI_METAL_APPLE9, 2, 160, 32, 32, 4, true, 160},
    {MFAI_METAL_BACKWARD_QUERY, MFAI_METAL_APPLE9, 2, 192, 32, 32, 4, false, 192},
    {MFAI_METAL_BACKWARD_QUERY, MFAI_METAL_APPLE9, 4, 96, 32, 32, 4, true, 96},
    {MFAI_METAL_BACKWARD_QUERY, MFAI_METAL_APPLE7, 2, 128, 32, 32, 4, true, 128},
    {MFAI_METAL_BACKWARD_QUERY, MFAI_METAL_APPLE7, 2, 160, 32, 16, 4, true, 160},
    {MFAI_METAL_BACKWARD_QUERY, MFAI_METAL_APPLE7, 2, 0, 32, 16, 4, false, 256},
    {MFAI_METAL_BACKWARD_QUERY, MFAI_METAL_APPLE7, 4, 64, 32, 32, 4, true, 64},
    {MFAI_METAL_BACKWARD_QUERY, MFAI_METAL_APPLE7, 4, 96, 32, 16, 4, true, 96},
    {MFAI_METAL_BACKWARD_QUERY, MFAI_METAL_APPLE7, 4, 192, 32, 16, 4, false, 192},
    {MFAI_METAL_BACKWARD_QUERY, MFAI_METAL_APPLE7, 4, 0, 32, 8, 4, false, 256},

    {MFAI_METAL_BACKWARD_KEY, MFAI_METAL_APPLE9, 2, 64, 64, 32, 4, true, 64},
    {MFAI_METAL_BACKWARD_KEY, MFAI_METAL_APPLE9, 2, 96, 32, 32, 4, true, 96},
    {MFAI_METAL_BACKWARD_KEY, MFAI_METAL_APPLE9, 2, 144, 32, 32, 4, false, 144},
    {MFAI_METAL_BACKWARD_KEY, MFAI_METAL_APPLE9, 4, 64, 32, 32, 4, true, 64},
    {MFAI_METAL_BACKWARD_KEY, MFAI_METAL_APPLE9, 4, 112, 32, 32, 4, false, 112},
    {MFAI_METAL_BACKWARD_KEY, MFAI_METAL_APPLE7, 2, 96, 32, 32, 4, true, 96},
    {MFAI_METAL_BACKWARD_KEY, MFAI_METAL_APPLE7, 2, 128, 32, 32, 4, false, 128},
    {MFAI_METAL_BACKWARD_KEY, MFAI_METAL_APPLE7, 2, 160, 16, 32, 4, false, 160},
    {MFAI_METAL_BACKWARD_KEY, MFAI_METAL_APPLE7, 2, 0, 32, 32, 4, false, 128},
    {MFAI_METAL_BACKWARD_KEY, MFAI_METAL_APPLE7, 4, 64, 32, 32, 4, true, 64},
    {MFAI_METAL_BACKWARD_KEY, MFAI_METAL_APPLE7, 4, 160, 16, 32, 4, false, 160},
    {MFAI_METAL_BACKWARD_KEY, MFAI_METAL_APPLE7, 4, 0, 16, 32, 4, false, 128},

    {MFAI_METAL_BACKWARD_BIAS, MFAI_METAL_APPLE7, 2, 64, 32, 32, 4, true, 64},
    {MFAI_METAL_BACKWARD_BIAS, MFAI_METAL_APPLE7, 2, 256, 32, 16, 4, true, 256},
    {MFAI_METAL_BACKWARD_BIAS, MFAI_METAL_APPLE7, 2, 0, 32, 16, 4, false, 256},
    {MFAI_METAL_BACKWARD_BIAS, MFAI_METAL_APPLE7, 4, 128, 32, 16, 4, true, 128},
    {MFAI_METAL_BACKWARD_BIAS, MFAI_METAL_APPLE7, 4, 0, 32, 8, 4, false, 256},
};

enum { FRAGMENT = 8, DECODE_CHUNK = 16, FLOAT_BYTES = 4, LEAD_BYTES = 16 };

/* `size` in equal blocks of at most `most`, rounded up to whole matrices. */
static int block_of(int64_t size, int most, int unit) {
    return (int)mfai_round_up(mfai_ceil_div(size, mfai_ceil_div(size, most)), unit);
}

static const row_t *find_row(mfai_metal_pass_t pass, int family, int element_size, int64_t dim) {
    const row_t *row = table;
    while (row->pass != pass || row->family > family || row->element_size != element_size ||
           (row->most != 0 && row->most < dim))
        ++row;
    return row;
}

static int registers_of(const mfai_metal_tile_t *tile, int element_size) {
    const int lane_rows = tile->rows / tile->simdgroups < FRAGMENT ? 1 : tile->rows / tile->simdgroups / FRAGMENT;
    const int query_bytes = tile->resident ? tile->depth * element_size : 0;
    const int float_bytes = (tile->value_block + 2 * tile->keys) * FLOAT_BYTES;
    /* 32 lanes hold the 8 elements of each column of a fragment. */
    return lane_rows * (query_bytes + float_bytes) * FRAGMENT / 32 / FLOAT_BYTES;
}

static int forward_threadgroup_bytes(const mfai_metal_tile_t *tile, int element_size) {
    const int lead = LEAD_BYTES / element_size;
    const int keys = tile->depth_block * (tile->keys + lead), values = tile->keys * (tile->value_block + lead);
    return (keys + values) * element_size + 2 * tile->simdgroups * (int)sizeof(uint32_t);
}

static int decode_threadgroup_bytes(const mfai_metal_tile_t *tile) {
    return tile->rows * (tile->value_block + 2 * tile->simdgroups) * FLOAT_BYTES;
}

static bool is_backward(mfai_metal_pass_t pass) {
    return pass == MFAI_METAL_BACKWARD_QUERY || pass == MFAI_METAL_BACKWARD_KEY || pass == MFAI_METAL_BACKWARD_BIAS;
}

static int backward_registers(mfai_metal_pass_t pass, const mfai_metal_tile_t *tile, int element_size) {
    const int owned_bytes = tile->resident ? (tile->depth + tile->value_block) * element_size : 0;
    const int visited = pass == MFAI_METAL_BACKWARD_KEY ? tile->rows : tile->keys;
    const int sums = pass == MFAI_METAL_BACKWARD_KEY     ? tile->depth_block + tile->value_block
                     : pass == MFAI_METAL_BACKWARD_QUERY ? tile->depth_block
                                                         : visited;
    return (owned_bytes + (sums + 2 * visited) * FLOAT_BYTES) * FRAGMENT / 32 / FLOAT_BYTES;
}

/* With dout as precise as the other operands. In dK and dV, one that is not is staged as floats, which fit as well. */
static int backward_threadgroup_bytes(mfai_metal_pass_t pass, const mfai_metal_tile_t *tile, int element_size) {
    enum { ROW_TERMS = 2 * 4 }; /* of two tiles */
    const int row_bytes = (tile->depth_block + tile->value_block) * element_size + 2 * LEAD_BYTES;
    if (pass == MFAI_METAL_BACKWARD_KEY)
        return tile->rows * (row_bytes + ROW_TERMS * FLOAT_BYTES);
    const int summed = pass == MFAI_METAL_BACKWARD_BIAS ? tile->rows * tile->keys * FLOAT_BYTES : 0;
    return tile->keys * row_bytes + summed;
}

mfai_metal_tile_t mfai_metal_tile(mfai_metal_pass_t pass, int family, int element_size, int64_t head_dim,
                                  int64_t value_dim) {
    const row_t *row = find_row(pass, family, element_size, head_dim > value_dim ? head_dim : value_dim);
    const int unit = pass == MFAI_METAL_DECODE ? DECODE_CHUNK : FRAGMENT;
    mfai_metal_tile_t tile = {.rows = row->rows, .keys = row->keys, .simdgroups = row->simdgroups};
    tile.resident = row->resident;
    tile.depth_block =
        pass == MFAI_METAL_DECODE ? (int)mfai_round_up(head_dim, unit) : block_of(head_dim, row->block, unit);
    tile.depth = (int)mfai_round_up(head_dim, tile.depth_block);
    tile.value_block = block_of(value_dim, row->block, unit);
    tile.value_blocks = mfai_ceil_div(value_dim, tile.value_block);
    tile.registers =
        is_backward(pass) ? backward_registers(pass, &tile, element_size) : registers_of(&tile, element_size);
    tile.threadgroup_bytes = is_backward(pass)           ? backward_threadgroup_bytes(pass, &tile, element_size)
                             : pass == MFAI_METAL_DECODE ? decode_threadgroup_bytes(&tile)
                                                         : forward_threadgroup_bytes(&tile, element_size);
    return tile;
}

mfai_metal_split_t mfai_metal_split(const mfai_metal_tile_t *tile, int64_t threadgroups, int64_t key_count) {
    const int64_t least = (int64_t)tile->keys * tile->simdgroups; /* a tile for each simdgroup */
    const int64_t wanted = mfai_ceil_div(MFAI_METAL_DECODE_THREADGROUPS, threadgroups);
    const int64_t most = key_count > least ? mfai_ceil_div(key_count, least) : 1;
    mfai_metal_split_t split = {.keys =
                                    mfai_round_up(mfai_ceil_div(key_count, wanted < most ? wanted : most), tile->keys)};
    split.keys = split.keys > 0 ? split.keys : tile->keys;
    split.count = key_count > 0 ? mfai_ceil_div(key_count, split.keys) : 1;
    return split;
}
