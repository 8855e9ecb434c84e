/* Blocks: every way in which their lists can be wrong. */
#include "core/buffer.h"
#include "described.h"

/* Two rows of three blocks for each batch and head, as lists of both kinds with a mask for some. The lists of all
   batches and heads are the same. */
static call listed(mfa_context_t context, mfai_pass_t pass) {
    call c = good(context, pass, 1 << MFAI_DESC_BLOCKS);
    ABSENT(blocks.block_mask) = true;
    const int32_t counts[2] = {2, 1}, full_counts[2] = {1, 2};
    const int32_t indices[2][3] = {{0, 2, -9}, {1, 99, 99}}, full[2][3] = {{1, 1, 1}, {0, 2, 2}};
    const int32_t chosen[2][3] = {{-1, 2, 77}, {0, 77, -77}};
    for (int i = 0; i < 16; ++i) {
        LIST(blocks.kv_num_blocks)[i] = counts[i % 2];
        LIST(blocks.full_kv_num_blocks)[i] = full_counts[i % 2];
        for (int j = 0; j < 3; ++j) {
            LIST(blocks.kv_indices)[3 * i + j] = indices[i % 2][j];
            LIST(blocks.full_kv_indices)[3 * i + j] = full[i % 2][j];
            LIST(blocks.mask_indices)[3 * i + j] = chosen[i % 2][j];
        }
    }
    return c;
}

static call masked(mfa_context_t context, mfai_pass_t pass) {
    call c = good(context, pass, 1 << MFAI_DESC_BLOCKS);
    ABSENT(blocks.kv_num_blocks) = ABSENT(blocks.kv_indices) = ABSENT(blocks.full_kv_num_blocks) = true;
    ABSENT(blocks.full_kv_indices) = ABSENT(blocks.masks) = ABSENT(blocks.mask_indices) = true;
    return c;
}

#define INVALID(change, fragment) INVALID_OF(listed(context, MFAI_FORWARD), change, fragment)
#define FINE(change) FINE_OF(listed(context, MFAI_FORWARD), change)

static void test_what_is_given(mfa_context_t context) {
    call c = listed(context, MFAI_FORWARD);
    CHECK(import(&c) == MFA_SUCCESS && problem.features & MFAI_BLOCKS && problem.block_rows == 2 &&
          problem.block_keys == 2);
    c = masked(context, MFAI_BACKWARD);
    CHECK(import(&c) == MFA_SUCCESS && problem.features & MFAI_BLOCKS && problem.block_mask.present);
    FINE((ABSENT(blocks.full_kv_num_blocks) = ABSENT(blocks.full_kv_indices) = true));
    FINE((ABSENT(blocks.masks) = ABSENT(blocks.mask_indices) = true));
    FINE((ABSENT(blocks.kv_num_blocks) = ABSENT(blocks.kv_indices) = ABSENT(blocks.masks) =
              ABSENT(blocks.mask_indices) = true));
    INVALID(ABSENT(blocks.kv_num_blocks) = true, "blocks.kv_indices is set, but blocks.kv_num_blocks is NULL");
    INVALID(ABSENT(blocks.kv_indices) = true, "blocks.kv_num_blocks is set, but blocks.kv_indices is NULL");
    INVALID(ABSENT(blocks.full_kv_num_blocks) = true,
            "blocks.full_kv_indices is set, but blocks.full_kv_num_blocks is");
    INVALID(ABSENT(blocks.full_kv_indices) = true, "blocks.full_kv_num_blocks is set, but blocks.full_kv_indices is");
    INVALID(ABSENT(blocks.masks) = true, "blocks.mask_indices is set, but blocks.masks is NULL");
    INVALID(ABSENT(blocks.mask_indices) = true, "blocks.masks is set, but blocks.mask_indices is NULL");
    INVALID((ABSENT(blocks.kv_num_blocks) = ABSENT(blocks.kv_indices) = true),
            "blocks.mask_indices is set, but blocks.kv_indices is NULL");
    INVALID(ABSENT(blocks.block_mask) = false, "blocks.block_mask is set beside blocks.kv_num_blocks");
    INVALID((ABSENT(blocks.block_mask) = false, ABSENT(blocks.kv_num_blocks) = ABSENT(blocks.kv_indices) = true),
            "blocks.block_mask is set beside blocks.full_kv_num_blocks");
    INVALID_OF(masked(context, MFAI_FORWARD), ABSENT(blocks.block_mask) = true,
               "blocks has neither lists nor blocks.block_mask");
    INVALID(c.blocks.block_rows = 0, "blocks.block_rows is 0, expected 1 or more");
    INVALID(c.blocks.block_keys = -1, "blocks.block_keys is -1, expected 1 or more");
    INVALID(c.blocks.reserved = 7, "blocks.reserved is 7");
    INVALID(c.blocks.struct_size = 24, "blocks.struct_size is 24");
}

static void test_shapes(mfa_context_t context) {
    INVALID(c.blocks.block_rows = 3, "blocks.kv_num_blocks has shape (2, 4, 2, 1), expected (2, 4, 1, 1)");
    INVALID(c.blocks.block_rows = INT64_MAX, "blocks.kv_num_blocks has shape (2, 4, 2, 1), expected (2, 4, 1, 1)");
    INVALID_OF(masked(context, MFAI_FORWARD), c.blocks.block_keys = 4,
               "blocks.block_mask has shape (2, 4, 2, 3), expected (2, 4, 2, 2)");
    INVALID(pack(&T(blocks.kv_num_blocks), 2, 4, 2, 2), "blocks.kv_num_blocks has shape (2, 4, 2, 2)");
    INVALID(pack(&T(blocks.kv_indices), 2, 3, 2, 3), "blocks.kv_indices has shape (2, 3, 2, 3)");
    INVALID(pack(&T(blocks.kv_indices), 2, 1, 2, 3),
            "blocks.kv_indices has batch 2 and 1 heads, expected blocks.kv_num_blocks's 2 and 4");
    INVALID(pack(&T(blocks.full_kv_num_blocks), 1, 4, 2, 1),
            "blocks.full_kv_indices has batch 2 and 4 heads, expected blocks.full_kv_num_blocks's 1 and 4");
    INVALID(pack(&T(blocks.mask_indices), 2, 4, 2, 2),
            "blocks.mask_indices has shape (2, 4, 2, 2), expected (2, 4, 2, 3)");
    INVALID(pack(&T(blocks.masks), 3, 1, 2, 3), "blocks.masks has shape (3, 1, 2, 3), expected (3, 1, 2, 2)");
    /* One list for all batches and heads, whichever way it is said. */
    FINE((pack(&T(blocks.full_kv_num_blocks), 1, 1, 2, 1), pack(&T(blocks.full_kv_indices), 1, 1, 2, 3)));
    FINE((T(blocks.kv_num_blocks).stride[0] = T(blocks.kv_indices).stride[0] = 0));
    /* No rows, keys or heads of anything. */
    call c = masked(context, MFAI_FORWARD);
    ABSENT(bool_mask) = ABSENT(additive_mask) = true;
    T(query).shape[2] = T(query_value).shape[2] = T(out).shape[2] = T(logsumexp).shape[2] = 0;
    T(blocks.block_mask).shape[2] = 0;
    CHECK(import(&c) == MFA_SUCCESS);
    c = masked(context, MFAI_FORWARD);
    ABSENT(bool_mask) = ABSENT(additive_mask) = true;
    T(key).shape[2] = T(value).shape[2] = T(blocks.block_mask).shape[3] = 0;
    CHECK(import(&c) == MFA_SUCCESS);
}

/* Of batch 1, head 2: its rows of blocks are those from 12 on. */
static void test_what_lists_say(mfa_context_t context) {
    INVALID(LIST(blocks.kv_num_blocks)[12] = 4,
            "blocks.kv_num_blocks[1, 2, 0, 0] is 4, expected 0 to 3, as many as blocks.kv_indices has");
    INVALID(LIST(blocks.kv_num_blocks)[13] = -1, "blocks.kv_num_blocks[1, 2, 1, 0] is -1, expected 0 to 3");
    INVALID(LIST(blocks.full_kv_num_blocks)[15] = INT32_MAX, "blocks.full_kv_num_blocks[1, 3, 1, 0] is 2147483647");
    INVALID(LIST(blocks.kv_indices)[3 * 12 + 1] = 3, "blocks.kv_indices[1, 2, 0, 1] is 3, expected 0 to 2");
    INVALID(LIST(blocks.kv_indices)[3 * 12] = -1, "blocks.kv_indices[1, 2, 0, 0] is -1, expected 0 to 2");
    INVALID(LIST(blocks.full_kv_indices)[3 * 13] = INT32_MIN, "blocks.full_kv_indices[1, 2, 1, 0] is -2147483648");
    INVALID(LIST(blocks.kv_indices)[3 * 12 + 1] = 0,
            "blocks.kv_indices[1, 2, 0, 1] is 0 behind 0, expected ascending blocks, each once");
    INVALID((LIST(blocks.kv_indices)[0] = 2, LIST(blocks.kv_indices)[1] = 0),
            "blocks.kv_indices[0, 0, 0, 1] is 0 behind 2, expected ascending");
    INVALID(LIST(blocks.full_kv_indices)[3 * 13] = 2, "blocks.full_kv_indices[1, 2, 1, 1] is 2 behind 2");
    INVALID(LIST(blocks.full_kv_indices)[3 * 12] = 2,
            "blocks.full_kv_indices[1, 2, 0, 0] is 2, which blocks.kv_indices lists too");
    INVALID(LIST(blocks.kv_indices)[3 * 13] = 2,
            "blocks.full_kv_indices[1, 2, 1, 1] is 2, which blocks.kv_indices lists too");
    INVALID(LIST(blocks.mask_indices)[3 * 12 + 1] = 3, "blocks.mask_indices[1, 2, 0, 1] is 3, expected -1 (none) to 2");
    INVALID(LIST(blocks.mask_indices)[3 * 12] = -2, "blocks.mask_indices[1, 2, 0, 0] is -2, expected -1 (none) to 2");
    /* Behind a row's number there is anything. */
    FINE(LIST(blocks.kv_indices)[2] = INT32_MIN);
    FINE((LIST(blocks.kv_num_blocks)[0] = 0, LIST(blocks.kv_indices)[0] = 1, LIST(blocks.mask_indices)[0] = 9));
}

/* Nothing is read in memory that only a device can reach, or behind the end of a list. */
static void test_lists_on_a_device(mfa_context_t context) {
    mfa_buffer_t buffer = NULL;
    CHECK(mfa_create_buffer(context, 256, &buffer) == MFA_SUCCESS);
    mfai_memory_t *memory_of = (mfai_memory_t *)(uintptr_t)mfai_buffer_memory(buffer);
    void *const contents = memory_of->contents;
    memory_of->contents = NULL;
    call c = listed(context, MFAI_FORWARD);
    T(blocks.full_kv_indices).data = NULL;
    T(blocks.full_kv_indices).buffer = buffer;
    LIST(blocks.kv_indices)[0] = 99;
    CHECK(import(&c) == MFA_SUCCESS);
    memory_of->contents = contents;
    mfa_destroy_buffer(buffer);
}

int main(void) {
    mfa_context_t context = NULL;
    CHECK(mfa_create_context(&context) == MFA_SUCCESS);
    test_what_is_given(context);
    test_shapes(context);
    test_what_lists_say(context);
    test_lists_on_a_device(context);
    for (int pass = MFAI_FORWARD; pass < MFAI_PASSES; ++pass) {
        test_each_operand(listed, context, pass);
        test_each_operand(masked, context, pass);
    }
    mfa_destroy_context(context);
    return check_report();
}
