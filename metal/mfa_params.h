/*
 * What the host tells the kernels: the problem, and the numbers of buffers and function constants. C and Metal read
 * this file alike.
 *
 * The host compiles each source with these macros, which the tile table (src/metal/tiles.h) and the call determine:
 *
 *   MFA_T   type of query, and in which products are computed     half, bfloat or float
 *   MFA_K   type as which keys are stored            as MFA_T, or of codes: char, uchar, mfa_int4 or mfa_uint4
 *   MFA_V   type as which values are stored          likewise
 *   MFA_O   type of out
 *   MFA_DO  type of dout                           backward only
 *   MFA_G   type of the gradient that is written   backward only; of dK and dV, that of dkey
 *   MFA_GV  type of dvalue                         dK and dV only
 *   MFA_D   head dimension, rounded up to a multiple of 8 (decode: 16)
 *   MFA_BD  how much of it is staged at once, and in the backward pass summed by a threadgroup; divides MFA_D
 *   MFA_DV  columns of values that a threadgroup accumulates, a multiple of 8 (decode: 16)
 *   MFA_BQ, MFA_BK  query rows and keys of a tile               MFA_SIMDGROUPS  of a threadgroup
 *   MFA_RESIDENT  1: query tiles stay in registers; 0: they are read anew for each key tile. Backward: rows of both
 *   operands
 *                 that a simdgroup owns
 *
 * Threadgroups are numbered in one dimension, batch outermost; those of one dispatch start at first_threadgroup.
 */
#ifndef MFA_PARAMS_H
#define MFA_PARAMS_H

#include "mfa_constants.h"
#include "mfa_philox.h"
#include "mfa_rules.h"

/* Strides count elements, in the order batch, head, row, column; 0 where broadcast. A buffer is bound at element 0, 0,
   0, 0. */
typedef struct mfa_metal_strides {
    mfa_index batch, head, row, column;
} mfa_metal_strides;

/* What codes stand for: scale * (code - zero point) + mean. */
typedef struct mfa_metal_coding {
    mfa_metal_strides scales, zero_points, mean;
    mfa_index rows, columns; /* that share a scale; 0: all */
    mfa_index row_shift;     /* their logarithm, 63 if all share one; -1: they are no power of two */
    mfa_u64 columns_inverse; /* 2^40 / columns that share a scale, rounded up */
} mfa_metal_coding;

typedef struct mfa_metal_params {
    mfa_index first_threadgroup; /* number of this dispatch's first threadgroup */

    mfa_index batch, heads, kv_heads, group; /* group = heads / kv_heads */
    mfa_index query_count, key_count, head_dim, value_dim;
    mfa_index offset, window_left, window_right; /* for mfa_rules.h; -1: unbounded */
    mfa_index block_rows, block_keys;            /* of a block */
    mfa_index block_lines, block_columns;        /* rows and columns of blocks, and words of a bit for each column */
    mfa_index block_words, block_heads;          /* heads that have blocks of their own; 1: all have the same */
    mfa_index listed_blocks, listed_full_blocks, listed_masks; /* at the most, in a row of each list */
    mfa_index mask_count;

    mfa_index stored_batches, stored_rows; /* of query, as it lies */
    mfa_index cache_batches, cache_rows;   /* of key, as it lies: batches or pages, and rows of each */
    mfa_index cache_capacity;              /* rows that a sequence has room for, where none is packed */
    mfa_index is_bottom_right;             /* with sequences: offset = keys - queries, else 0 */
    mfa_index chunk;
    mfa_index new_rows;                  /* of new_key, as it lies */
    mfa_index rotary_rows, rotary_pairs; /* of the tables; 0 pairs: nothing is turned */
    mfa_index queries_step;              /* rotary positions of queries follow each other; else all have the first's */

    mfa_index query_tiles, key_tiles,
        value_blocks;             /* ceil(query_count / MFA_BQ) and so on; decode: of group * query_count */
    mfa_index splits, split_keys; /* decode: parts of the keys, and keys of each, a multiple of MFA_BK */

    mfa_metal_strides query, key, value, out, logsumexp;
    mfa_metal_strides bool_mask, additive_mask, alibi_slopes; /* stretched to (B, H, Nq, Nkv), slopes to (B, H, 1, 1) */
    mfa_metal_strides blocks;                                 /* of MFA_BUFFER_BLOCKS; .row: words of a line */
    mfa_metal_strides sinks;                                  /* only .head */
    mfa_metal_strides kv_num_blocks, kv_indices, full_kv_num_blocks, full_kv_indices, block_mask, mask_indices;
    mfa_metal_strides masks; /* .batch: from mask to mask */
    mfa_metal_strides query_starts, key_starts, query_lengths, key_lengths, left_padding, key_batches, page_table;
    mfa_metal_strides query_value, query_scale, key_scale, value_scale;
    mfa_metal_strides new_key, new_value, new_starts, rotary_cos, rotary_sin, rotary_positions;
    mfa_metal_coding key_coding, value_coding;
    mfa_metal_strides dout, dquery, dkey, dvalue, dbias, dsinks, delta, dlogsumexp;
    mfa_metal_strides dbias_size;          /* sizes of dbias: full, or 1 where it is summed */
    mfa_metal_strides turned;              /* of MFA_BUFFER_TURNED */
    mfa_metal_strides filled, filled_size; /* the result that fill.metal fills, and its sizes */

    float softmax_scale;
    float softcap;
    float keep_factor;          /* dropout: what a weight that is kept is multiplied by, 1 / (1 - dropout_p) */
    mfa_u32 dropout_threshold;  /* mfa_rule_dropout_threshold */
    mfa_philox_key dropout_key; /* mfa_rule_dropout_key */
} mfa_metal_params;

/* Members lie in the same places for host and kernels: their types have the same sizes, and those of 8 bytes come
   first, so that nothing is padded. */
#ifdef __METAL_VERSION__
static_assert(sizeof(mfa_index) == 8 && sizeof(mfa_u32) == 4 && sizeof(float) == 4, "types of fixed size");
#else
#include <stddef.h>
_Static_assert(sizeof(mfa_index) == 8 && sizeof(mfa_u32) == 4 && sizeof(float) == 4, "types of fixed size");
_Static_assert(offsetof(mfa_metal_params, dropout_key) + sizeof(mfa_philox_key) == sizeof(mfa_metal_params),
               "no padding");
#endif

/* One kernel has 31 of them at the most. What only forward calls have and what only backward calls have share numbers,
   and so does what only some kernels are given (src/metal/operands.m) with what these do without. */
enum {
    MFA_BUFFER_PARAMS = 0,
    MFA_BUFFER_QUERY = 1,
    MFA_BUFFER_KEY = 2,
    MFA_BUFFER_VALUE = 3,
    MFA_BUFFER_OUT = 4,
    MFA_BUFFER_LOGSUMEXP = 5,     /* bound if MFA_CONSTANT_LOGSUMEXP, or in backward */
    MFA_BUFFER_BOOL_MASK = 6,     /* bound if MFA_CONSTANT_BOOL_MASK */
    MFA_BUFFER_ADDITIVE_MASK = 7, /* bound if MFA_CONSTANT_ADDITIVE_MASK */
    MFA_BUFFER_ALIBI_SLOPES = 8,  /* bound if MFA_CONSTANT_ALIBI */
    MFA_BUFFER_SINKS = 9,         /* bound if MFA_CONSTANT_SINKS */
    /* float (B, H, Nq, splits, value_dim + MFA_PARTIAL_EXTRA), contiguous: sums not yet divided, then the row's maximum
       in natural units and its sum of weights. Written by decode, read by combine. */
    MFA_BUFFER_PARTIALS = 10,
    MFA_BUFFER_DOUT = 11,
    MFA_BUFFER_DELTA = 12, /* mfa_metal_delta (B, H, Nq), contiguous; written by prepare */
    MFA_BUFFER_DQUERY = 13,
    MFA_BUFFER_DKEY = 14,
    MFA_BUFFER_DVALUE = 15,
    MFA_BUFFER_DBIAS = 10,
    /* mfa_u32 (B or 1, H or 1, rows of blocks, words of a line), contiguous. A line has bits of the blocks that count,
       bits of those in which bool_mask and masks are not looked at, in block_words words each, and, if
       MFA_CONSTANT_BLOCK_MASKS, for each block 1 + the number of its mask; 0: none. Written by blocks. */
    MFA_BUFFER_BLOCKS = 18,
    MFA_BUFFER_MASKS = 19, /* bound if MFA_CONSTANT_BLOCK_MASKS */

    MFA_BUFFER_FILLED = 1, /* the result that fill.metal fills, and nothing else */

    MFA_BUFFER_KV_NUM_BLOCKS = 13, /* lists of blocks: bound where they are read, and nothing else but scratch memory */
    MFA_BUFFER_KV_INDICES = 14,
    MFA_BUFFER_FULL_KV_NUM_BLOCKS = 15,
    MFA_BUFFER_FULL_KV_INDICES = 16,
    MFA_BUFFER_BLOCK_MASK = 17,
    MFA_BUFFER_MASK_INDICES = 20,

    MFA_BUFFER_QUERY_STARTS = 20, /* sequences and pages */
    MFA_BUFFER_KEY_STARTS = 21,
    MFA_BUFFER_QUERY_LENGTHS = 22,
    MFA_BUFFER_KEY_LENGTHS = 23,
    MFA_BUFFER_LEFT_PADDING = 24,
    MFA_BUFFER_KEY_BATCHES = 25,
    MFA_BUFFER_PAGE_TABLE = 26,

    MFA_BUFFER_KEY_SCALES = 28, /* quantisation */
    MFA_BUFFER_KEY_ZERO_POINTS = 29,
    MFA_BUFFER_KEY_MEAN = 30,
    MFA_BUFFER_VALUE_SCALES = 16,
    MFA_BUFFER_VALUE_ZERO_POINTS = 17,

    MFA_BUFFER_DSINKS = 1, /* of backward_sinks alone */

    MFA_BUFFER_OWN_DELTA = 1,  /* the caller's; of prepare alone, bound if MFA_CONSTANT_OWN_DELTA */
    MFA_BUFFER_DLOGSUMEXP = 2, /* of prepare alone, bound if MFA_CONSTANT_DLOGSUMEXP */

    MFA_BUFFER_QUERY_VALUE = 11, /* these of the forward pass only */
    MFA_BUFFER_QUERY_TERMS = 12, /* mfa_metal_query_terms (B, H, Nq), contiguous; written by quantise. Bound if
                                    MFA_CODES_INTEGERS */
    MFA_BUFFER_QUERY_SCALE = 13,
    MFA_BUFFER_KEY_SCALE = 14,
    MFA_BUFFER_VALUE_SCALE = 15,
    MFA_BUFFER_NEW_STARTS = 27,

    MFA_BUFFER_NEW_KEY = 4, /* of append, rotate and quantise alone */
    MFA_BUFFER_NEW_VALUE = 5,
    MFA_BUFFER_ROTARY_COS = 6,
    MFA_BUFFER_ROTARY_SIN = 7,
    MFA_BUFFER_ROTARY_POSITIONS = 8,
    MFA_BUFFER_TURNED = 9 /* MFA_T, as query, contiguous; written by rotate and quantise. Others have it for query */
};

enum { MFA_PARTIAL_EXTRA = 2 };

/* Of a row in the backward pass: rowsum(dout * out) - dlogsumexp, and 0, or NaN if dout holds non-finite values. */
typedef struct mfa_metal_delta {
    float delta, taint;
} mfa_metal_delta;

/* Of a query that is rounded: what its integers are times, and its product with the mean of keys. */
typedef struct mfa_metal_query_terms {
    float scale, mean;
} mfa_metal_query_terms;

/* Rows and simdgroups of threadgroups that have no row in the tile table: of those that append, rotate or quantise, that fill,
   and that compute delta and the gradient of sinks. */
enum { MFA_APPEND_ROWS = 8, MFA_APPEND_SIMDGROUPS = 4 };
enum { MFA_FILL_ROWS = 32, MFA_FILL_SIMDGROUPS = 4 };
enum { MFA_PREPARE_ROWS = 32, MFA_PREPARE_SIMDGROUPS = 4, MFA_SINKS_SIMDGROUPS = 8 };

/* Threads that make a line of MFA_BUFFER_BLOCKS. */
enum { MFA_BLOCKS_THREADS = 128 };

/* Function constants: flags (bool) but for MFA_CONSTANT_ADDITIVE_MASK, MFA_CONSTANT_LISTS, MFA_CONSTANT_SCALES,
   MFA_CONSTANT_KEY_CODES and MFA_CONSTANT_VALUE_CODES, each a uint. Each has a value in each pipeline. */
enum {
    MFA_CONSTANT_LOGSUMEXP = 0,     /* logsumexp is written, or filled */
    MFA_CONSTANT_BOOL_MASK = 1,     /* there is one */
    MFA_CONSTANT_ADDITIVE_MASK = 2, /* MFA_MASK_... */
    MFA_CONSTANT_ALIBI = 3,
    MFA_CONSTANT_SINKS = 4,
    MFA_CONSTANT_SOFTCAP = 5,
    MFA_CONSTANT_DROPOUT = 6,
    MFA_CONSTANT_EXACT_WEIGHTS = 7, /* softmax weights stay float32; of no consequence for float inputs */
    /* The rows of every operand and result (logsumexp, masks and what codes stand for aside) have their elements side by side (column
       stride 1), begin at multiples of MFA_VECTOR elements from address 0, and have a length that is a multiple of
       MFA_VECTOR; of codes, MFA_CODES_VECTOR. */
    MFA_CONSTANT_VECTORS = 8,
    MFA_CONSTANT_DKEY = 9, /* dkey is wanted, and dvalue: of the kernel that can write both */
    MFA_CONSTANT_DVALUE = 10,
    MFA_CONSTANT_HUGE_SCALE = 11, /* softmax_scale times log2(e) leaves the range of float */
    MFA_CONSTANT_BLOCKS = 12,
    MFA_CONSTANT_LISTS = 13, /* MFA_LIST_... */
    MFA_CONSTANT_CHUNK = 14,
    MFA_CONSTANT_QUERY_VALUE = 15,
    MFA_CONSTANT_SCALES = 16,        /* MFA_SCALE_... */
    MFA_CONSTANT_ROTARY = 17,        /* queries and new keys are turned by their positions */
    MFA_CONSTANT_INTERLEAVED = 18,   /* in pairs of neighbours; else half of what is turned apart */
    MFA_CONSTANT_FLOAT_COSINES = 19, /* the table is float; else MFA_T, as query */
    MFA_CONSTANT_FLOAT_SINES = 20,
    MFA_CONSTANT_BLOCK_MASKS = 21, /* some blocks have masks of their own */
    MFA_CONSTANT_BLOCK_TABLE = 22, /* of the kernel that makes words of lists: which there are */
    MFA_CONSTANT_BLOCK_LISTS = 23,
    MFA_CONSTANT_FULL_LISTS = 24,
    MFA_CONSTANT_OUT = 25, /* of prepare: out is there; else delta is read */
    MFA_CONSTANT_OWN_DELTA = 26,
    MFA_CONSTANT_KEY_CODES = 27, /* MFA_CODES_... */
    MFA_CONSTANT_VALUE_CODES = 28,
    MFA_CONSTANT_ZERO_CLIPPED = 29, /* codes at an end of their range have no gradients */
    MFA_CONSTANT_DLOGSUMEXP = 30,   /* of prepare: logsumexp has a gradient */
    MFA_CONSTANTS
};

enum { MFA_VECTOR = 4, MFA_CODES_VECTOR = 8 };

/* What says how long sequences are and where they lie; a set is a sum. */
enum {
    MFA_LIST_SEQUENCES = 1, /* set beside any other: sequences have lengths and places of their own */
    MFA_LIST_QUERY_STARTS = 2,
    MFA_LIST_KEY_STARTS = 4,
    MFA_LIST_QUERY_LENGTHS = 8,
    MFA_LIST_KEY_LENGTHS = 16,
    MFA_LIST_LEFT_PADDING = 32,
    MFA_LIST_KEY_BATCHES = 64,
    MFA_LIST_PAGE_TABLE = 128,
    MFA_LIST_APPEND = 256, /* new rows come behind those of key_lengths */
    MFA_LIST_NEW_STARTS = 512,
    MFA_LIST_ROTARY_POSITIONS = 1024
};

/* Factors of stored values; a set is a sum. */
enum { MFA_SCALE_QUERY = 1, MFA_SCALE_KEY = 2, MFA_SCALE_VALUE = 4 };

/* What codes stand for; a set is a sum. */
enum {
    MFA_CODES_SCALES = 1, /* set beside any other: there are codes */
    MFA_CODES_HALF_SCALES = 2,
    MFA_CODES_COLUMNS = 4, /* each column has a scale of its own */
    MFA_CODES_GROUPS = 8,  /* columns have scales by groups */
    MFA_CODES_ZERO_POINTS = 16,
    MFA_CODES_SIGNED_BYTES = 32, /* what zero points are; int if neither */
    MFA_CODES_UNSIGNED_BYTES = 64,
    MFA_CODES_MEAN = 128,
    MFA_CODES_INTEGERS = 256 /* rows are read as codes less their zero points (mfa_integers.h) */
};

enum { MFA_MASK_NONE = 0, MFA_MASK_FP16 = 1, MFA_MASK_BF16 = 2, MFA_MASK_FP32 = 3 };

#endif
