/* The tile table: every row keeps to the budgets that it states, and to what the kernels assert. */
#include "metal/tiles.h"

#include "check.h"

static int ceil_divide(int64_t x, int64_t by) { return (int)((x + by - 1) / by); }

static void check_tile(mfai_metal_pass_t pass, int family, int element_size, int head_dim, int value_dim) {
    const mfai_metal_tile_t tile = mfai_metal_tile(pass, family, element_size, head_dim, value_dim);
    CHECK(tile.registers > 0 && tile.registers + MFAI_METAL_OTHER_REGISTERS <= MFAI_METAL_REGISTERS);
    CHECK(tile.threadgroup_bytes > 0 && tile.threadgroup_bytes <= MFAI_METAL_THREADGROUP_BYTES);
    CHECK(tile.simdgroups >= 1 && tile.simdgroups * 32 <= 1024);
    CHECK(tile.rows % 8 == 0 && tile.keys % 8 == 0);
    CHECK(128 % tile.keys == 0); /* a call of Philox serves columns of one block of 128 */
    CHECK(tile.depth >= head_dim && tile.depth % tile.depth_block == 0 && tile.depth_block % 8 == 0);
    CHECK(tile.value_block % 8 == 0 && tile.value_blocks == ceil_divide(value_dim, tile.value_block));
    CHECK(!tile.keep_query || tile.depth == tile.depth_block);
    if (pass == MFAI_METAL_FORWARD)
        CHECK(tile.rows % (8 * tile.simdgroups) == 0);
    if (pass == MFAI_METAL_DECODE)
        CHECK(tile.rows == 8 && tile.depth % 16 == 0 && tile.value_block % 16 == 0 && tile.depth == tile.depth_block);
    if (pass == MFAI_METAL_BACKWARD_KEY && element_size == 2) /* with a dout that is staged as floats */
        CHECK(tile.threadgroup_bytes + 2 * tile.rows * tile.value_block <= MFAI_METAL_THREADGROUP_BYTES);
}

static void check_table(void) {
    static const int dims[] = {1,   7,   8,   32,  33,  48,  64,  65,  96,  97,  112, 128,
                               129, 144, 145, 160, 192, 200, 256, 257, 300, 512, 1000};
    enum { DIMS = sizeof dims / sizeof *dims };
    for (int pass = 0; pass < MFAI_METAL_PASSES; ++pass)
        for (int family = MFAI_METAL_APPLE7; family <= MFAI_METAL_APPLE10; ++family)
            for (int element_size = 2; element_size <= 4; element_size += 2)
                for (int i = 0; i < DIMS; ++i)
                    for (int j = 0; j < DIMS; ++j)
                        check_tile((mfai_metal_pass_t)pass, family, element_size, dims[i], dims[j]);
}

/* Apple9 and later visit more keys at once where they have room, and no later family lacks a row. */
static void check_families(void) {
    const int dims[] = {96, 192};
    for (int i = 0; i < 2; ++i) {
        const mfai_metal_tile_t old = mfai_metal_tile(MFAI_METAL_FORWARD, MFAI_METAL_APPLE7, 2, dims[i], dims[i]);
        for (int family = MFAI_METAL_APPLE9; family <= MFAI_METAL_APPLE10 + 1; ++family)
            CHECK(mfai_metal_tile(MFAI_METAL_FORWARD, family, 2, dims[i], dims[i]).keys == 2 * old.keys);
    }
}

/* Splits are whole tiles, none is empty, together they have every key, and they stop at one when the GPU is busy without. */
static void check_splits(void) {
    const mfai_metal_tile_t tile = mfai_metal_tile(MFAI_METAL_DECODE, MFAI_METAL_APPLE7, 2, 64, 64);
    static const int64_t keys[] = {0, 1, 255, 256, 257, 1000, 8192, 100000, (int64_t)1 << 40};
    for (unsigned i = 0; i < sizeof keys / sizeof *keys; ++i)
        for (int64_t threadgroups = 1; threadgroups <= 4096; threadgroups *= 4) {
            const mfai_metal_split_t split = mfai_metal_split(&tile, threadgroups, keys[i]);
            CHECK(split.keys % tile.keys == 0 && split.keys > 0 && split.count >= 1);
            CHECK(split.count * split.keys >= keys[i]);
            CHECK(split.count == 1 || (split.count - 1) * split.keys < keys[i]);
            CHECK(split.count == 1 || threadgroups * split.count < 2 * MFAI_METAL_DECODE_THREADGROUPS);
        }
    CHECK(mfai_metal_split(&tile, 1, 8192).count > 1);
    CHECK(mfai_metal_split(&tile, MFAI_METAL_DECODE_THREADGROUPS, 8192).count == 1);
}

int main(void) {
    check_table();
    check_families();
    check_splits();
    return check_report();
}
