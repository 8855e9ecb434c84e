/*
 * Which blocks of the scores count, made of the caller's lists into lines of words that mfa_walk.h reads. A threadgroup
 * makes a line, which is a row of blocks of one batch and head:
 *
 *   clear the line
 *   set the bits of the blocks that are listed, and note where masks are listed for them
 *   look these masks up
 *
 * Lists may be in memory that the host cannot read, and are not trusted: none is read beyond its end, and what is not
 * there is left out. Bits of a word come from several threads, in any order, to the same effect.
 */
#include "mfa_kernel.h"

constant bool has_block_table [[function_constant(MFA_CONSTANT_BLOCK_TABLE)]];
constant bool has_block_lists [[function_constant(MFA_CONSTANT_BLOCK_LISTS)]];
constant bool has_full_lists [[function_constant(MFA_CONSTANT_FULL_LISTS)]];

static inline void clear(device atomic<uint> *words, mfa_index count, uint thread_number) {
    for (mfa_index i = thread_number; i < count; i += MFA_BLOCKS_THREADS)
        atomic_store_explicit(words + i, 0u, memory_order_relaxed);
}

static inline void set_bit(device atomic<uint> *words, mfa_index block) {
    atomic_fetch_or_explicit(words + block / MFA_BLOCK_BITS, 1u << (block % MFA_BLOCK_BITS), memory_order_relaxed);
}

/* One of the lists, as far as it is there. */
struct list {
    const device int *blocks;
    mfa_index stride, count;
};

static inline list list_of(const device int *numbers, constant mfa_metal_strides &number_strides,
                           const device int *blocks, constant mfa_metal_strides &strides, mfa_index batch,
                           mfa_index head, mfa_index row, mfa_index most) {
    list found;
    found.blocks = blocks + mfa_place(strides, batch, head, row);
    found.stride = strides.column;
    found.count = min(mfa_index(numbers[mfa_place(number_strides, batch, head, row)]), most);
    return found;
}

[[kernel, max_total_threads_per_threadgroup(MFA_BLOCKS_THREADS)]] void attention_blocks(
    constant mfa_metal_params &p [[buffer(MFA_BUFFER_PARAMS)]],
    const device uchar *table [[buffer(MFA_BUFFER_BLOCK_MASK), function_constant(has_block_table)]],
    const device int *numbers [[buffer(MFA_BUFFER_KV_NUM_BLOCKS), function_constant(has_block_lists)]],
    const device int *indices [[buffer(MFA_BUFFER_KV_INDICES), function_constant(has_block_lists)]],
    const device int *full_numbers [[buffer(MFA_BUFFER_FULL_KV_NUM_BLOCKS), function_constant(has_full_lists)]],
    const device int *full_indices [[buffer(MFA_BUFFER_FULL_KV_INDICES), function_constant(has_full_lists)]],
    const device int *mask_indices [[buffer(MFA_BUFFER_MASK_INDICES), function_constant(has_block_masks)]],
    device atomic<uint> *lines [[buffer(MFA_BUFFER_BLOCKS)]], uint threadgroup_number [[threadgroup_position_in_grid]],
    uint thread_number [[thread_index_in_threadgroup]]) {
    mfa_index number = p.first_threadgroup + threadgroup_number;
    device atomic<uint> *visible = lines + number * p.blocks.row;
    device atomic<uint> *full = visible + p.block_words, *masks = full + p.block_words;
    const mfa_index row = number % p.block_lines;
    number /= p.block_lines;
    const mfa_index head = number % p.block_heads, batch = number / p.block_heads;

    clear(visible, p.blocks.row, thread_number);
    threadgroup_barrier(mem_flags::mem_device);

    if (has_block_table) {
        const device uchar *flags = table + mfa_place(p.block_mask, batch, head, row);
        for (mfa_index block = thread_number; block < p.block_columns; block += MFA_BLOCKS_THREADS)
            if (flags[block * p.block_mask.column] != 0)
                set_bit(visible, block);
    }
    if (has_block_lists) {
        const list listed = list_of(numbers, p.kv_num_blocks, indices, p.kv_indices, batch, head, row, p.listed_blocks);
        for (mfa_index i = thread_number; i < listed.count; i += MFA_BLOCKS_THREADS) {
            const mfa_index block = listed.blocks[i * listed.stride];
            if (block < 0 || block >= p.block_columns)
                continue;
            set_bit(visible, block);
            if (has_block_masks) /* of a block that is listed twice, the last */
                atomic_fetch_max_explicit(masks + block, uint(i) + 1, memory_order_relaxed);
        }
    }
    if (has_full_lists) {
        const list listed = list_of(full_numbers, p.full_kv_num_blocks, full_indices, p.full_kv_indices, batch, head,
                                    row, p.listed_full_blocks);
        for (mfa_index i = thread_number; i < listed.count; i += MFA_BLOCKS_THREADS) {
            const mfa_index block = listed.blocks[i * listed.stride];
            if (block < 0 || block >= p.block_columns)
                continue;
            set_bit(visible, block);
            set_bit(full, block);
        }
    }
    if (has_block_masks) {
        const device int *chosen = mask_indices + mfa_place(p.mask_indices, batch, head, row);
        threadgroup_barrier(mem_flags::mem_device);
        for (mfa_index block = thread_number; block < p.block_columns; block += MFA_BLOCKS_THREADS) {
            const mfa_index at = mfa_index(atomic_load_explicit(masks + block, memory_order_relaxed)) - 1;
            const mfa_index mask = at >= 0 && at < p.listed_masks ? chosen[at * p.mask_indices.column] : -1;
            const bool is_there = mask >= 0 && mask < p.mask_count;
            atomic_store_explicit(masks + block, is_there ? uint(mask) + 1 : 0u, memory_order_relaxed);
        }
    }
}
