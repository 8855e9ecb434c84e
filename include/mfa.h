/*
 * mfa: flash attention behind one C ABI.
 *
 * On Apple silicon the work runs on the GPU through Metal; everywhere else on the CPU. The same call gives
 * the same answer on both. Memory beyond inputs and outputs does not grow with Nq * Nkv.
 *
 * Two tiers:
 *   1. Simple: flat calls over buffers (mfa_attention_forward and friends).
 *   2. Descriptor: mfa_attention_forward_desc takes a struct that reaches every feature. The simple tier is a
 *      few lines over it.
 *
 * Conventions, stated once:
 *   - Functions that can fail return mfa_status_t; 0 is success. On failure no output is written and
 *     mfa_last_error_message() says which argument was wrong, what it was and what was expected. One exception: a
 *     GPU that fails while it runs (MFA_ERROR_EXECUTION_FAILED) may leave outputs half written.
 *   - Outputs come last. Destroy functions accept NULL and return nothing.
 *   - A context and its buffers may be used from several threads at once; destroying a handle while another
 *     thread uses it is the caller's mistake. Error message and latency are kept per thread.
 *   - A process forked from one that has used Metal cannot use it: new contexts for it fail with
 *     MFA_ERROR_DEVICE_NOT_SUPPORTED (at auto they are the CPU's), all else with MFA_ERROR_UNSUPPORTED.
 *   - Descriptor structs begin with struct_size and only ever grow at the end. Start from the MFA_..._INIT of
 *     the header you compile with: a newer library fills in what your struct does not have; an older library
 *     refuses (MFA_ERROR_UNSUPPORTED) a struct whose unknown tail is not all zero, since zero is the default
 *     of every field added later.
 *   - Nothing here prints, exits or aborts.
 *   - A call computes in a floating-point environment of its own (to nearest, denormals kept, nothing traps), so that
 *     bits do not depend on the caller's, which comes back with its exception flags as they were.
 *   - No call is a cancellation point: a thread cancelled in one, by either type of cancellation, ends when it returns.
 *     No call may be made from a signal handler or left by longjmp. The library's threads block all signals but those
 *     of faults and run where the affinity mask of the thread whose call they serve allows.
 *
 * C99, valid C++.
 */
#ifndef MFA_H
#define MFA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MFA_VERSION_MAJOR 0
#define MFA_VERSION_MINOR 1
#define MFA_VERSION_PATCH 0

#if defined(__GNUC__) || defined(__clang__)
#define MFA_API __attribute__((visibility("default")))
#else
#define MFA_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---------------------------------------------------------------- status */

typedef int32_t mfa_status_t;
typedef mfa_status_t mfa_error_t; /* the name that the first clients used */

#define MFA_SUCCESS 0
#define MFA_ERROR_INVALID_ARGS 1
#define MFA_ERROR_MEMORY_ALLOCATION 2
#define MFA_ERROR_DEVICE_NOT_SUPPORTED 3
#define MFA_ERROR_KERNEL_COMPILATION 4
#define MFA_ERROR_EXECUTION_FAILED 5
#define MFA_ERROR_UNSUPPORTED 6

/* ------------------------------------------------------------ precisions */

typedef int32_t mfa_precision_t;

#define MFA_PRECISION_DEFAULT (-1) /* only where a field says so */
#define MFA_PRECISION_FP16 0
#define MFA_PRECISION_BF16 1
#define MFA_PRECISION_FP32 2
#define MFA_PRECISION_INT8 3
#define MFA_PRECISION_INT4 4  /* two in a byte, the first in its low half; a row is padded to whole bytes */
#define MFA_PRECISION_BOOL 5  /* one byte an element, 0 is false; masks only */
#define MFA_PRECISION_INT32 6 /* lengths, indices, positions and zero points only */
#define MFA_PRECISION_UINT8 7 /* as INT8 and INT4, codes of quantised values */
#define MFA_PRECISION_UINT4 8

/* --------------------------------------------------------------- handles */

typedef struct mfa_context *mfa_context_t;
typedef struct mfa_buffer *mfa_buffer_t;

/* -------------------------------------------------------------- contexts */

#define MFA_BACKEND_AUTO 0 /* MFA_BACKEND ("cpu" or "metal") if set, else Metal if present, else the CPU */
#define MFA_BACKEND_CPU 1
#define MFA_BACKEND_METAL 2

#define MFA_CPU_ISA_AUTO 0 /* MFA_CPU_ISA (a name below in lower case) if set, else the best the machine has */
#define MFA_CPU_ISA_SCALAR 1
#define MFA_CPU_ISA_AVX2 2
#define MFA_CPU_ISA_AVX512 3
#define MFA_CPU_ISA_NEON 4

/* Calls that the chosen backend cannot run are run by the CPU backend instead of failing with
   MFA_ERROR_UNSUPPORTED; the plan says so. */
#define MFA_CONTEXT_ALLOW_CPU_FALLBACK 1u

typedef struct mfa_context_options {
    uint32_t struct_size;
    int32_t backend;     /* MFA_BACKEND_...; fixed for the life of the context */
    int32_t device;      /* Metal device index; 0 is the default device */
    int32_t num_threads; /* most CPU threads a call may use; 0: MFA_NUM_THREADS if set, else all that the
                            process may run on (affinity mask, cgroup quota); never more than 1024 */
    int32_t cpu_isa;     /* MFA_CPU_ISA_... */
    uint32_t flags;      /* MFA_CONTEXT_... or 0 */
} mfa_context_options_t;

#define MFA_CONTEXT_OPTIONS_INIT {(uint32_t)sizeof(mfa_context_options_t), 0, 0, 0, 0, 0u}

/* What a context turned out to be. Strings end in NUL and are cut to fit. */
typedef struct mfa_context_info {
    uint32_t struct_size;
    int32_t backend;
    int32_t num_threads;
    int32_t cpu_isa;
    uint32_t flags;
    char backend_name[16]; /* "cpu", "metal" */
    char isa_name[16];     /* "scalar", "avx2", "avx512", "avx512bf16", "neon" and so on, or the GPU family */
    char device_name[96];
} mfa_context_info_t;

#define MFA_CONTEXT_INFO_INIT {(uint32_t)sizeof(mfa_context_info_t), 0, 0, 0, 0u, "", "", ""}

/**
 * Creates a context with every option at auto.
 * @param context  receives the handle; not written on failure
 * @return MFA_SUCCESS; INVALID_ARGS if context is NULL or an MFA_... variable in the environment has a value
 *         that cannot be used; DEVICE_NOT_SUPPORTED if the environment asks for a device or ISA that is absent
 */
MFA_API mfa_status_t mfa_create_context(mfa_context_t *context);

/** As mfa_create_context, with options; NULL means all at auto. Options set by the caller win over the
    environment. */
MFA_API mfa_status_t mfa_create_context_with_options(const mfa_context_options_t *options, mfa_context_t *context);

/** Gives up the handle. Buffers keep what they need of the context alive. NULL is allowed. */
MFA_API void mfa_destroy_context(mfa_context_t context);

/** Fills in `info`, whose struct_size the caller has set (MFA_CONTEXT_INFO_INIT). */
MFA_API mfa_status_t mfa_context_describe(mfa_context_t context, mfa_context_info_t *info);

/** Frees the workspaces that the context keeps between calls. Calls in flight keep theirs. */
MFA_API mfa_status_t mfa_context_trim(mfa_context_t context);

/* --------------------------------------------------------------- buffers */

/**
 * Allocates zeroed memory that the context's device can use without a copy.
 * @param size_bytes  0 is allowed; contents are then not to be read
 * @return INVALID_ARGS, MEMORY_ALLOCATION
 */
MFA_API mfa_status_t mfa_create_buffer(mfa_context_t context, size_t size_bytes, mfa_buffer_t *buffer);

/**
 * Wraps memory of the caller's, which must stay valid until the buffer is destroyed and is never freed here.
 * The memory may be read-only if the buffer is only ever used as an input. Metal works on it where it lies if the
 * whole pages of 16 KiB around it are in one region of memory that may be read and written; else each call copies
 * what it uses of it, and mfa_buffer_is_zero_copy is false.
 * @param data  any address aligned to the element size; NULL only if size_bytes is 0
 * @return INVALID_ARGS, MEMORY_ALLOCATION
 */
MFA_API mfa_status_t mfa_buffer_from_ptr(mfa_context_t context, void *data, size_t size_bytes, mfa_buffer_t *buffer);

/**
 * Wraps a Metal buffer of the context's device, as PyTorch and MLX have them, without a copy. Its size is the Metal
 * buffer's length in bytes; tensors begin at a byte_offset in it.
 * @param mtl_buffer  an id<MTLBuffer>; retained until the buffer is destroyed and its last call has run
 * @return INVALID_ARGS (also for a buffer of another device), UNSUPPORTED on another backend, MEMORY_ALLOCATION
 */
MFA_API mfa_status_t mfa_buffer_from_mtl_buffer(mfa_context_t context, void *mtl_buffer, mfa_buffer_t *buffer);

/** The address of the first byte, for reading and writing by the CPU; NULL for a NULL buffer and for a Metal buffer
    in private storage. */
MFA_API void *mfa_buffer_contents(mfa_buffer_t buffer);

/** Size in bytes as given at creation, or the length of the Metal buffer; 0 for a NULL buffer. */
MFA_API size_t mfa_buffer_size(mfa_buffer_t buffer);

/** Whether the device works on the memory itself. Always true on the CPU backend; false for a NULL buffer. */
MFA_API bool mfa_buffer_is_zero_copy(mfa_buffer_t buffer);

/** NULL is allowed. */
MFA_API void mfa_destroy_buffer(mfa_buffer_t buffer);

/* --------------------------------------------------------- simple tier */

/**
 * out = softmax(softmax_scale * q k^T) v
 *
 * Operands are packed, layout [batch, seq, heads, head_dim]; a transposed one is [batch, heads, head_dim, seq].
 * Queries have seq_len_q rows, keys and values seq_len_kv. 0 is allowed for batch_size and both lengths. Error
 * messages call q, k and v query, key and value, as the descriptor does, unless the buffer is NULL or a product of
 * sizes overflows.
 *
 * @param softmax_scale  literal: 0 means 0. Usually 1/sqrt(head_dim).
 * @param causal  row i sees keys up to i + seq_len_kv - seq_len_q (aligned bottom-right)
 * @param input_precision  of q, k and v: FP16, BF16 or FP32
 * @param intermediate_precision  FP32 forbids rounding the softmax weights below float32 before they multiply
 *        v; FP16 or BF16 lets them be rounded to the input precision, never lower. Sums are float32 always.
 * @param output_precision  of out: FP16, BF16 or FP32
 * @return INVALID_ARGS (a buffer that is NULL, of another context or too small, head_dim or num_heads 0,
 *         an output that overlaps another operand, an unknown precision), UNSUPPORTED, MEMORY_ALLOCATION,
 *         KERNEL_COMPILATION (with what the compiler said), EXECUTION_FAILED
 */
MFA_API mfa_status_t mfa_attention_forward(mfa_context_t context, mfa_buffer_t q, mfa_buffer_t k, mfa_buffer_t v,
                                           mfa_buffer_t out, uint32_t batch_size, uint32_t seq_len_q,
                                           uint32_t seq_len_kv, uint32_t num_heads, uint16_t head_dim,
                                           float softmax_scale, bool causal, mfa_precision_t input_precision,
                                           mfa_precision_t intermediate_precision, mfa_precision_t output_precision,
                                           bool transpose_q, bool transpose_k, bool transpose_v, bool transpose_o);

/** As mfa_attention_forward; also writes logsumexp: float32 (batch, heads, seq_q), natural log, -inf for a row
    that sees no key. */
MFA_API mfa_status_t mfa_attention_forward_with_lse(
    mfa_context_t context, mfa_buffer_t q, mfa_buffer_t k, mfa_buffer_t v, mfa_buffer_t out, mfa_buffer_t logsumexp,
    uint32_t batch_size, uint32_t seq_len_q, uint32_t seq_len_kv, uint32_t num_heads, uint16_t head_dim,
    float softmax_scale, bool causal, mfa_precision_t input_precision, mfa_precision_t intermediate_precision,
    mfa_precision_t output_precision, bool transpose_q, bool transpose_k, bool transpose_v, bool transpose_o);

/**
 * The gradients dq, dk and dv of mfa_attention_forward_with_lse with the same arguments.
 *
 * q, k and v are in input_precision; out, dout, dq, dk and dv in output_precision. Each transpose governs a gradient
 * as well as its operand: transpose_o out and dout, transpose_q q and dq, and so on.
 *
 * @param out, logsumexp  what the forward call wrote
 * @param intermediate_precision  FP32 forbids rounding weights and their gradients below float32 before they multiply
 * @return as mfa_attention_forward
 */
MFA_API mfa_status_t mfa_attention_backward(mfa_context_t context, mfa_buffer_t dout, mfa_buffer_t q, mfa_buffer_t k,
                                            mfa_buffer_t v, mfa_buffer_t out, mfa_buffer_t logsumexp, mfa_buffer_t dq,
                                            mfa_buffer_t dk, mfa_buffer_t dv, uint32_t batch_size, uint32_t seq_len_q,
                                            uint32_t seq_len_kv, uint32_t num_heads, uint16_t head_dim,
                                            float softmax_scale, bool causal, mfa_precision_t input_precision,
                                            mfa_precision_t intermediate_precision, mfa_precision_t output_precision,
                                            bool transpose_q, bool transpose_k, bool transpose_v, bool transpose_o);

/* ------------------------------------------------------ descriptor tier */

/*
 * A tensor of four dimensions. Sizes and strides count elements; strides may be zero (broadcast) or negative in
 * inputs. An output's strides must reach each element once: sorted by magnitude, each must exceed the extent
 * of those before it. An output may interleave with other operands as long as they share no byte; a call whose
 * strides are too tangled to show that is refused. Memory is either `data` or, if `buffer` is set, `byte_offset`
 * bytes into that buffer, in which case data must be NULL and bounds are checked. Addresses are aligned to the
 * element size. Elements of four bits lie side by side (stride 1), and other strides are even: rows begin with a byte.
 */
typedef struct mfa_tensor {
    uint32_t struct_size;
    int32_t precision;
    void *data;
    mfa_buffer_t buffer;
    uint64_t byte_offset;
    int64_t shape[4];
    int64_t stride[4];
} mfa_tensor_t;

#define MFA_TENSOR_INIT {(uint32_t)sizeof(mfa_tensor_t), MFA_PRECISION_FP32, NULL, NULL, 0, {0, 0, 0, 0}, {0, 0, 0, 0}}

/* Where row i stands among the keys: at key i + offset. Causal masks, windows and ALiBi count from there. */
#define MFA_ALIGN_NONE 0         /* legal only if none of them is used */
#define MFA_ALIGN_TOP_LEFT 1     /* offset 0 (PyTorch's scaled_dot_product_attention) */
#define MFA_ALIGN_BOTTOM_RIGHT 2 /* offset Nkv - Nq (FlashAttention) */

/*
 * Sequences of lengths of their own. There are B of them, each with Nq_b queries and Nkv_b keys, and all else is said
 * of one sequence: row i and key j count from its first ones, BOTTOM_RIGHT is offset Nkv_b - Nq_b, masks have the sizes
 * (B, H, Nq, Nkv) of the longest, and (b, h, i, j) names a weight to dropout. Members may be NULL.
 *
 * Rows of out, logsumexp and gradients that belong to no sequence become 0, and -inf in logsumexp. Keys and values that
 * belong to none are never read. A list that the CPU cannot read, in a Metal buffer in private storage, is not checked:
 * kernels cut what it says to what is there.
 */
typedef struct mfa_sequences {
    uint32_t struct_size;
    uint32_t reserved; /* 0 */
    const mfa_tensor_t
        *query_starts;              /* (1, 1, 1, B + 1) INT32, from 0, ascending, at most T: queries are packed. query,
                                          out, logsumexp and their gradients are (1, H, T, ...), and those of b are rows
                                          query_starts[b] .. query_starts[b + 1] - 1 */
    const mfa_tensor_t *key_starts; /* likewise of key, value and their gradients, (1, Hkv, T, ...) */
    const mfa_tensor_t *query_lengths; /* (1, 1, 1, B) INT32: how many of a sequence's queries are there; NULL: all */
    const mfa_tensor_t *key_lengths;   /* (1, 1, 1, B) INT32: likewise of keys, left padding included */
    const mfa_tensor_t *left_padding; /* (1, 1, 1, B) INT32: so many of a sequence's first keys are not there, and key 0
                                          is the one behind them; NULL: none */
    const mfa_tensor_t *key_batches;  /* (1, 1, 1, B) INT32: the batch of key and value, (C, Hkv, Nkv, ...), that each
                                          sequence has; NULL: its own. Not with key_starts or pages */
    int64_t most_queries;             /* no sequence has more; 0: as the lists say, or the operands where the CPU cannot
                                          read them */
    int64_t most_keys;
} mfa_sequences_t;

#define MFA_SEQUENCES_INIT {(uint32_t)sizeof(mfa_sequences_t), 0u, NULL, NULL, NULL, NULL, NULL, NULL, 0, 0}

/*
 * Keys and values in pages: key is (pages, Hkv, R, D) and value (pages, Hkv, R, Dv), and row r of sequence b lies in
 * page page_table[b][r / R], at row r % R. Entries that no length reaches are never read. Gradients of keys and values
 * are laid out as they are. Sequences may share pages, or batches of a cache, that are only read: a backward call, and
 * new rows, need some that are reached once.
 */
typedef struct mfa_pages {
    uint32_t struct_size;
    uint32_t reserved;              /* 0 */
    const mfa_tensor_t *page_table; /* (1, 1, B, n) INT32 */
} mfa_pages_t;

#define MFA_PAGES_INIT {(uint32_t)sizeof(mfa_pages_t), 0u, NULL}

/*
 * Blocks of the scores that count, block_rows queries by block_keys keys each, as FlexAttention's BlockMask lists them;
 * the last of either axis may be ragged. All others are hidden and never visited, in either pass. Blocks are given as
 * kv_num_blocks and kv_indices, full_... or both, or as block_mask. A row's indices ascend, and no block is in both
 * lists. With R = ceil(Nq / block_rows) and C = ceil(Nkv / block_keys), B and H each the full size or 1:
 */
typedef struct mfa_blocks {
    uint32_t struct_size;
    uint32_t reserved; /* 0 */
    int64_t block_rows;
    int64_t block_keys;
    const mfa_tensor_t *kv_num_blocks;      /* (B, H, R, 1) INT32: in a row of blocks, how many count */
    const mfa_tensor_t *kv_indices;         /* (B, H, R, n) INT32: which; what lies beyond that number is never read */
    const mfa_tensor_t *full_kv_num_blocks; /* likewise, further blocks in which bool_mask is not looked at */
    const mfa_tensor_t *full_kv_indices;
    const mfa_tensor_t *block_mask;   /* (B, H, R, C) BOOL: true counts; in place of the lists */
    const mfa_tensor_t *masks;        /* (n, 1, block_rows, block_keys) BOOL: masks for single blocks */
    const mfa_tensor_t *mask_indices; /* as kv_indices: which of them hides pairs in a block, true = attend; -1: none */
} mfa_blocks_t;

#define MFA_BLOCKS_INIT {(uint32_t)sizeof(mfa_blocks_t), 0u, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL}

/*
 * New rows for the cache that key and value are. Before anything else, sequence b's are written behind its
 * key_lengths[b] rows, which then count: its keys are key_lengths[b] + Nnew_b. An error leaves the cache as it was.
 * Forward only. New rows of a cache of codes are quantised as mfa_quantize does it, turned first and saturating: with
 * quantization.rows 1 their scales and zero points are written, with rows 0 those that are there serve. Other numbers of
 * rows are refused, since new rows would change the scale of old ones.
 *
 * With rotary tables, queries and new keys are turned first (queries not in place): columns c and c + R / 2 of the
 * first R, or 2c and 2c + 1 if interleaved, by the angle whose cosine and sine are in column c of the position's row.
 * New key i has position P_b + i, P_b = rotary_positions[b] or key_lengths[b]; query i has P_b + i if the call is
 * causal or has a window or chunks, else P_b.
 */
typedef struct mfa_append {
    uint32_t struct_size;
    uint32_t flags;                       /* MFA_APPEND_... or 0 */
    const mfa_tensor_t *key;              /* (B, Hkv, Nnew, D), as key, or as query if that has codes; packed:
                                             (1, Hkv, T, D) */
    const mfa_tensor_t *value;            /* (B, Hkv, Nnew, Dv) */
    const mfa_tensor_t *starts;           /* (1, 1, 1, B + 1) INT32: new rows are packed; NULL: they are not */
    const mfa_tensor_t *rotary_cos;       /* (1, 1, positions, R / 2), FP32 or as query; NULL: nothing is turned */
    const mfa_tensor_t *rotary_sin;       /* likewise */
    const mfa_tensor_t *rotary_positions; /* (1, 1, 1, B) INT32; NULL: key_lengths */
} mfa_append_t;

#define MFA_APPEND_INTERLEAVED 1u /* pairs of columns are neighbours (GPT-J); else half of R apart (GPT-NeoX) */

#define MFA_APPEND_INIT {(uint32_t)sizeof(mfa_append_t), 0u, NULL, NULL, NULL, NULL, NULL, NULL}

/*
 * Factors of stored values, one for a batch and key/value head: a query counts as query times its group's factor, and
 * so on. Forward only.
 */
typedef struct mfa_scales {
    uint32_t struct_size;
    uint32_t reserved;         /* 0 */
    const mfa_tensor_t *query; /* (B or 1, Hkv or 1, 1, 1) FP32; NULL: 1 */
    const mfa_tensor_t *key;
    const mfa_tensor_t *value;
} mfa_scales_t;

#define MFA_SCALES_INIT {(uint32_t)sizeof(mfa_scales_t), 0u, NULL, NULL, NULL}

/*
 * What the codes of a key or value (INT8, UINT8, INT4 or UINT4, (C, Hkv, N, D)) stand for:
 *
 *   real = scale * (code - zero_point) + mean
 *
 * `rows` neighbours along N and `columns` neighbours along D share a scale, the last of either axis may be fewer, and 0
 * means all: per tensor or head (0, 0), per token (1, 0), per channel (0, 1), per block of tokens (32, 0), per token in
 * groups of columns (1, 32). Rows count where they are stored: in a page, or in a packed operand. Scales and zero points
 * of rows that no sequence has are never read; of the others, those that the CPU can read are checked before anything is
 * written, unless the call is encoded.
 */
typedef struct mfa_quantization {
    uint32_t struct_size;
    uint32_t reserved;          /* 0 */
    int64_t rows;               /* that share a scale, 1 or more; 0: all */
    int64_t columns;            /* likewise: 1 or a multiple of 32; 0: all */
    const mfa_tensor_t *scales; /* (C or 1, Hkv or 1, ceil(N / rows), ceil(D / columns)) FP32 or FP16, greater than 0 */
    const mfa_tensor_t *zero_points; /* as scales; INT32, INT8 or UINT8, codes that the precision has; NULL: 0 */
    const mfa_tensor_t *mean; /* of keys only: (B or 1, Hkv or 1, 1, D) FP32, as smooth-K subtracts it; NULL: 0 */
} mfa_quantization_t;

#define MFA_QUANTIZATION_INIT {(uint32_t)sizeof(mfa_quantization_t), 0u, 0, 0, NULL, NULL, NULL}

/* How products of codes are computed: in floating point, of what they stand for, or in integers. For these, queries are
   rounded to 8 bits, each row with a scale of its own, and so are softmax weights, each tile of keys with that of its
   largest (SageAttention, Zhang et al., 2024). */
#define MFA_COMPUTE_EXACT 0
#define MFA_COMPUTE_INT8 1

#define MFA_ATTENTION_CAUSAL 1u        /* row i sees no key after i + offset */
#define MFA_ATTENTION_LITERAL_SCALE 2u /* softmax_scale 0 means 0, not the default */

/*
 * One attention call. With B batches, H query heads, Hkv key/value heads (H a multiple of Hkv), Nq and Nkv rows:
 *
 *   score(i, j) = softcap(softmax_scale * (q_i . k_j + qv_i . v_j)) - alibi_slope * |i + offset - j|
 *                 + additive_mask(i, j)
 *   out_i = sum over visible j of dropout(softmax_j(score(i, j))) * v_j
 *
 * A key j is visible to row i if it lies inside causal and window bounds and in the chunk of key i + offset, in a block
 * that counts, bool_mask is true there and additive_mask is not exactly -inf there. A row with no visible key, or with
 * no score above -inf, gives output 0 and logsumexp -inf, or the head's sink where there are sinks. Query head h reads
 * key/value head h / (H / Hkv). NaN in a visible score reaches its row; what a row cannot see does not, except that a
 * non-finite value may spread to the rows of the tile that it lies in.
 *
 * Dropout sets a weight to 0 with probability dropout_p and divides the others by 1 - dropout_p; logsumexp ignores it.
 * Whether (batch, head, row, column) is dropped follows from these and the seed and offset alone, so that every
 * tiling, thread count and backend drops the same ones: 16 bits of Philox4x32-10 (Salmon et al., 2011) are compared
 * with round(65536 * dropout_p), and a weight is dropped if they are less. The bits are those of slice
 * s = column % 128 / 16 of the result (word s / 2; its low half if s is even) for the counter
 * (16 * (column / 128) + column % 16, row, head, batch). The key is the first two words of the result for the counter
 * (offset low, offset high, 0, 0) and the key (seed low, seed high).
 *
 * Sources: online softmax after Milakov and Gimelshein (2018), tiling after FlashAttention-2 (Dao, 2023),
 * ALiBi after Press et al. (2021), sinks as in gpt-oss, softcap as in Gemma 2.
 */
typedef struct mfa_attention_desc {
    uint32_t struct_size;
    uint32_t flags;                    /* MFA_ATTENTION_... */
    const mfa_tensor_t *query;         /* (B, H, Nq, D)     FP16, BF16 or FP32, D >= 1 */
    const mfa_tensor_t *key;           /* (B, Hkv, Nkv, D)  as query, or codes: INT8, UINT8, INT4, UINT4 */
    const mfa_tensor_t *value;         /* (B, Hkv, Nkv, Dv) likewise, Dv >= 1 */
    const mfa_tensor_t *out;           /* (B, H, Nq, Dv)    FP16, BF16 or FP32; written */
    const mfa_tensor_t *logsumexp;     /* (B, H, Nq, 1)     FP32; written; NULL: not wanted */
    const mfa_tensor_t *bool_mask;     /* BOOL, true = attend; each size is full or 1; NULL: none */
    const mfa_tensor_t *additive_mask; /* FP16, BF16 or FP32; each size is full or 1; NULL: none */
    const mfa_tensor_t *alibi_slopes;  /* (B or 1, H, 1, 1) FP32; NULL: none */
    const mfa_tensor_t *sinks;         /* (1, H, 1, 1) FP32: one more logit a head, in the softmax's
                                           denominator and the logsumexp only; NULL: none */
    float softmax_scale;               /* 0: 1/sqrt(D), unless MFA_ATTENTION_LITERAL_SCALE; may be negative */
    float softcap;                     /* softcap * tanh(score / softcap) before biases; 0: off */
    int32_t alignment;                 /* MFA_ALIGN_... */
    int32_t intermediate_precision;    /* FP32 forbids rounding softmax weights below float32;
                                           MFA_PRECISION_DEFAULT, FP16, BF16: as low as the inputs' */
    int64_t window_left;               /* row i sees keys from i + offset - window_left; -1: unbounded */
    int64_t window_right;              /* and up to i + offset + window_right, inclusive; -1: unbounded */
    float dropout_p;                   /* 0 <= dropout_p < 1; 0: off */
    uint32_t reserved;                 /* 0 */
    uint64_t dropout_seed;             /* any; with dropout_offset it names a mask */
    uint64_t dropout_offset;           /* any; for the calls that share a seed, as layers and steps do */
    const mfa_tensor_t *query_value;   /* (B, H, Nq, Dv) as query: qv, as in absorbed MLA; the default scale is then
                                          1/sqrt(D + Dv). Forward only; NULL: none */
    int64_t chunk;                     /* keys are cut into chunks of so many, and row i sees that of key i + offset;
                                          0: off */
    const mfa_sequences_t *sequences;  /* NULL, as those that follow: none */
    const mfa_pages_t *pages;
    const mfa_blocks_t *blocks;
    const mfa_append_t *append;
    const mfa_scales_t *scales;
    const mfa_quantization_t *key_quantization; /* needed where key has codes, and only there */
    const mfa_quantization_t *value_quantization;
    int32_t compute_mode; /* MFA_COMPUTE_...; INT8: key and value have codes, and there is no query_value. Its backward
                             pass computes in floating point, in 16 bits where FP16 or BF16 would be */
    uint32_t reserved2;   /* 0 */
} mfa_attention_desc_t;

#define MFA_ATTENTION_DESC_INIT              \
    {(uint32_t)sizeof(mfa_attention_desc_t), \
     0u,                                     \
     NULL,                                   \
     NULL,                                   \
     NULL,                                   \
     NULL,                                   \
     NULL,                                   \
     NULL,                                   \
     NULL,                                   \
     NULL,                                   \
     NULL,                                   \
     0.0f,                                   \
     0.0f,                                   \
     MFA_ALIGN_NONE,                         \
     MFA_PRECISION_DEFAULT,                  \
     -1,                                     \
     -1,                                     \
     0.0f,                                   \
     0u,                                     \
     0u,                                     \
     0u,                                     \
     NULL,                                   \
     0,                                      \
     NULL,                                   \
     NULL,                                   \
     NULL,                                   \
     NULL,                                   \
     NULL,                                   \
     NULL,                                   \
     NULL,                                   \
     MFA_COMPUTE_EXACT,                      \
     0u}

/*
 * The gradients of one attention call. Nothing of size Nq * Nkv is kept between the passes or built here: weights
 * are computed anew from query, key and logsumexp. Sums are float32. A gradient that is NULL is not computed.
 *
 * With P the softmax weights, R = 1 / (1 - dropout_p) where a weight was kept and 0 where it was dropped:
 *
 *   dvalue = (P R)^T dout                  D = rowsum(dout * out) - dlogsumexp
 *   dP = R (dout value^T)                  dscore = P (dP - D)
 *   dbias = dscore                         dsinks = -sum over rows of exp(sink - logsumexp) D
 *   dquery = softmax_scale softcap' dscore key, and likewise dkey with query
 *
 * Of codes, dkey and dvalue are gradients with respect to what they stand for: the straight-through estimator of
 * training that is aware of quantisation (Bengio et al., 2013).
 *
 * Grouped heads sum into the key/value head that they share. A row that sees no key has gradients 0 and adds none,
 * but for its dlogsumexp in dsinks, as its logsumexp is the sink; a key that no row sees has gradients 0. Weights lose
 * what logsumexp, a float32, has lost: where scores are beyond 1e4, as after an additive mask of finfo.min over a whole
 * row, so do gradients. Non-finite values reach the gradients of the queries, keys and values that see them, and no
 * others, but for two things: rows of out that are not finite count as such, and a key whose score is -inf has no
 * weight and adds nothing.
 *
 * Sources: FlashAttention-2 (Dao, 2023), whose loops over keys outside and queries inside these are.
 */
/* dkey and dvalue are 0 for codes at an end of the range that mfa_quantize has: -127 or less and 127 (-7 and 7) without
   zero points, else the precision's lowest and highest. */
#define MFA_BACKWARD_ZERO_CLIPPED 1u

typedef struct mfa_attention_backward_desc {
    uint32_t struct_size;
    uint32_t flags;                      /* MFA_BACKWARD_... or 0 */
    const mfa_attention_desc_t *forward; /* the forward call; its out and logsumexp are read, and both are needed */
    const mfa_tensor_t *dout;            /* (B, H, Nq, Dv)   FP16, BF16 or FP32 */
    const mfa_tensor_t *dquery;          /* (B, H, Nq, D)    FP16, BF16 or FP32, as each gradient; written */
    const mfa_tensor_t *dkey;            /* (B, Hkv, Nkv, D)  written */
    const mfa_tensor_t *dvalue;          /* (B, Hkv, Nkv, Dv) written */
    const mfa_tensor_t *dbias;           /* shape of forward->additive_mask, summed where that has size 1; written */
    const mfa_tensor_t *dsinks;          /* (1, H, 1, 1)     FP32; written */
    const mfa_tensor_t *delta; /* (B, H, Nq, 1)    FP32: rowsum(dout * out). Written, or, where forward->out is NULL,
                                  read in its place; NULL: not wanted */
    const mfa_tensor_t *dlogsumexp; /* (B, H, Nq, 1) FP32: the gradient of logsumexp; NULL: 0. Not part of delta, from
                                       which it is subtracted in either case */
} mfa_attention_backward_desc_t;

#define MFA_ATTENTION_BACKWARD_DESC_INIT \
    {(uint32_t)sizeof(mfa_attention_backward_desc_t), 0u, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL}

/** How a call would run. Strings end in NUL and are cut to fit. */
typedef struct mfa_plan {
    uint32_t struct_size;
    int32_t status;       /* MFA_SUCCESS, or what the call would return, with `reason` */
    int32_t backend;      /* MFA_BACKEND_CPU or MFA_BACKEND_METAL: the one that would run it */
    int32_t fallback;     /* 1 if that is not the context's own backend */
    int32_t tile_queries; /* query rows and keys that one inner step works on */
    int32_t tile_keys;
    int32_t key_splits;       /* parts that the keys are split into, combined afterwards */
    int32_t num_threads;      /* CPU threads at the most */
    uint64_t workspace_bytes; /* memory that the call takes beside its operands */
    char kernel[64];
    char isa[16];
    char reason[256]; /* of a refusal or a fallback, else empty */
} mfa_plan_t;

#define MFA_PLAN_INIT {(uint32_t)sizeof(mfa_plan_t), 0, 0, 0, 0, 0, 0, 0, 0, "", "", ""}

/**
 * Runs one attention call and waits for it.
 * @param desc  read during the call only, with the tensors it points to
 * @return INVALID_ARGS (sizes that disagree, an output that overlaps an operand, sizes that overflow 64 bits,
 *         an unknown flag, ...), UNSUPPORTED, MEMORY_ALLOCATION,
 *         KERNEL_COMPILATION (with what the compiler said), EXECUTION_FAILED
 */
MFA_API mfa_status_t mfa_attention_forward_desc(mfa_context_t context, const mfa_attention_desc_t *desc);

/**
 * Says how mfa_attention_forward_desc would run `desc`, without running it; of tensors only lists are read.
 * @param plan  filled in up to its struct_size
 * @return as the call for a descriptor that is wrong in itself; MFA_SUCCESS otherwise, with plan->status and
 *         plan->reason for one that the backend refuses
 */
MFA_API mfa_status_t mfa_attention_forward_plan(mfa_context_t context, const mfa_attention_desc_t *desc,
                                                mfa_plan_t *plan);

/**
 * Computes the gradients of one attention call and waits for it. A gradient may not overlap another or any operand.
 * @param desc  read during the call only, with what it points to
 * @return as mfa_attention_forward_desc; INVALID_ARGS also for a dbias or dsinks whose forward operand is NULL
 */
MFA_API mfa_status_t mfa_attention_backward_desc(mfa_context_t context, const mfa_attention_backward_desc_t *desc);

/** Says how mfa_attention_backward_desc would run `desc`, as mfa_attention_forward_plan does. key_splits counts the
    blocks of keys whose contributions to dquery are added in order. */
MFA_API mfa_status_t mfa_attention_backward_plan(mfa_context_t context, const mfa_attention_backward_desc_t *desc,
                                                 mfa_plan_t *plan);

/* ---------------------------------------------------------- quantisation */

/*
 * Quantising one tensor. With x an element, less the mean where there is one:
 *
 *   symmetric (no zero points): scale = max |x| / most, most = 127 or 7, and codes are signed
 *   asymmetric: scale = (max(x, 0) - min(x, 0)) / (levels - 1), zero_point = lowest - min(x, 0) / scale, rounded
 *   code = x / scale, rounded to nearest even, + zero_point, cut to the range (from -most where symmetric)
 *
 * Scales are those of the finite elements, rounded to their precision, at least its smallest normal number, and 1 where
 * all is 0.
 */
typedef struct mfa_quantize_desc {
    uint32_t struct_size;
    uint32_t flags;                         /* MFA_QUANTIZE_... or 0 */
    const mfa_tensor_t *input;              /* (B, H, N, D) FP16, BF16 or FP32 */
    const mfa_tensor_t *codes;              /* likewise, INT8, UINT8, INT4 or UINT4; written */
    const mfa_quantization_t *quantization; /* of codes, B and H as they have them; its tensors are written */
} mfa_quantize_desc_t;

#define MFA_QUANTIZE_STATIC 1u   /* scales, zero points and mean are read, not written */
#define MFA_QUANTIZE_SATURATE 2u /* NaN becomes 0 and infinities an end of the range; else these are refused */

#define MFA_QUANTIZE_DESC_INIT {(uint32_t)sizeof(mfa_quantize_desc_t), 0u, NULL, NULL, NULL}

/**
 * Quantises a tensor, on the CPU whatever the backend: memory that it cannot reach is refused.
 * @param desc  read during the call only, with what it points to
 * @return INVALID_ARGS (sizes that disagree, results that overlap, UINT codes without zero points, static scales that
 *         are not positive and finite, an element that is not finite, named by its place, a scale beyond its precision),
 *         UNSUPPORTED (private storage), MEMORY_ALLOCATION. On failure nothing is written.
 */
MFA_API mfa_status_t mfa_quantize(mfa_context_t context, const mfa_quantize_desc_t *desc);

/* How the flat calls say it, for a whole tensor. INT8 codes are signed bytes for a zero point in -128 .. 127 and unsigned
   ones in 128 .. 255; INT4 codes are signed for -8 .. 7 and unsigned for 8 .. 15. */
typedef struct mfa_quantization_params {
    float scale; /* real = scale * (code - zero_point) */
    int32_t zero_point;
    mfa_precision_t precision; /* INT8 or INT4 */
} mfa_quantization_params_t;

/**
 * Allocates zeroed memory for codes, as mfa_create_buffer does, that remembers what they stand for.
 * @param size_bytes  of the codes, packed
 * @param precision   INT8 or INT4
 * @return INVALID_ARGS (also for a scale or zero point that mfa_validate_quantization_params refuses), MEMORY_ALLOCATION
 */
MFA_API mfa_status_t mfa_create_quantized_buffer(mfa_context_t context, size_t size_bytes, mfa_precision_t precision,
                                                 float scale, int32_t zero_point, mfa_buffer_t *buffer);

/**
 * Quantises each input, all of its FP32 elements, with its parameters; outputs are large enough for as many codes and,
 * if they remember parameters, get these. INT4 codes are packed without regard to rows: head_dim has to be even.
 * @return INVALID_ARGS (parameters that are refused, an element that is not finite, an output that is too small or
 *         overlaps an input or another output), UNSUPPORTED (private storage). On failure nothing is written.
 */
MFA_API mfa_status_t mfa_quantize_tensor_batch(mfa_context_t context, const mfa_buffer_t *inputs_fp32,
                                               const mfa_buffer_t *outputs, const mfa_quantization_params_t *params,
                                               size_t tensor_count);

/**
 * Whether parameters can stand for all of range_min .. range_max.
 * @return INVALID_ARGS, with a message that says which: a precision other than INT8 and INT4, a scale that is not
 *         positive and finite, a zero point outside the precision's range, a range that is empty or not finite, or one
 *         of whose ends would be clipped
 */
MFA_API mfa_status_t mfa_validate_quantization_params(const mfa_quantization_params_t *params, float range_min,
                                                      float range_max);

/* A tensor's sizes. */
typedef struct mfa_shape {
    uint32_t rank; /* 1 to 8 */
    int64_t dims[8];
} mfa_shape_t;

/** How many times fewer bytes a tensor takes in `to_precision` than in `from_precision`, rounded down, its rows padded to
    whole bytes: 4 for FP32 to INT8, 8 for FP32 to INT4. Scales are not counted. 0 for a precision or a shape that cannot
    be, or one without elements. */
MFA_API size_t mfa_calculate_memory_reduction(const mfa_shape_t *shape, mfa_precision_t from_precision,
                                              mfa_precision_t to_precision);

/** The root mean square of the difference between original FP32 elements and what their codes stand for; 0 for no
    elements, NaN for an argument that cannot be (mfa_last_error_message says which). */
MFA_API float mfa_estimate_quantization_error(mfa_buffer_t original_fp32, mfa_buffer_t quantized,
                                              const mfa_quantization_params_t *params);

/**
 * As mfa_attention_forward with a precision for each operand. Keys and values in INT8 or INT4 are buffers that
 * mfa_create_quantized_buffer has made, in that precision, and are not transposed.
 * @param query_precision  FP16, BF16 or FP32, as each that is not INT8 or INT4; those of q, k and v are the same
 */
MFA_API mfa_status_t mfa_attention_forward_mixed(mfa_context_t context, mfa_buffer_t q, mfa_buffer_t k, mfa_buffer_t v,
                                                 mfa_buffer_t out, uint32_t batch_size, uint32_t seq_len_q,
                                                 uint32_t seq_len_kv, uint32_t num_heads, uint16_t head_dim,
                                                 float softmax_scale, bool causal, mfa_precision_t query_precision,
                                                 mfa_precision_t key_precision, mfa_precision_t value_precision,
                                                 mfa_precision_t output_precision, bool transpose_q, bool transpose_k,
                                                 bool transpose_v, bool transpose_o);

/**
 * As mfa_attention_forward_with_lse, of codes. Layout [batch, seq, heads, head_dim]; each INT4 row is padded to a whole
 * byte. Parameters are those given, whatever k and v remember. Error messages call buffers as the descriptor does:
 * grad_output dout, d_values delta, grad_query dquery and so on, unless they are NULL.
 * @param q          FP16
 * @param out        FP32
 * @param logsumexp  FP32 (batch, heads, seq_q); NULL: not wanted
 */
MFA_API mfa_status_t mfa_attention_forward_quantized(mfa_context_t context, mfa_buffer_t q, mfa_buffer_t k,
                                                     mfa_buffer_t v, mfa_buffer_t out, mfa_buffer_t logsumexp,
                                                     uint32_t batch_size, uint32_t seq_len_q, uint32_t seq_len_kv,
                                                     uint32_t num_heads, uint16_t head_dim, float softmax_scale,
                                                     bool causal, const mfa_quantization_params_t *key_params,
                                                     const mfa_quantization_params_t *value_params);

/**
 * The gradient of mfa_attention_forward_quantized with respect to q, FP32.
 * @param grad_output  FP32, as out
 * @param d_values     written: FP32 (batch, heads, seq_q), rowsum(grad_output * out)
 */
MFA_API mfa_status_t mfa_attention_backward_query_quantized(
    mfa_context_t context, mfa_buffer_t q, mfa_buffer_t k, mfa_buffer_t v, mfa_buffer_t out, mfa_buffer_t grad_output,
    mfa_buffer_t logsumexp, mfa_buffer_t grad_query, mfa_buffer_t d_values, uint32_t batch_size, uint32_t seq_len_q,
    uint32_t seq_len_kv, uint32_t num_heads, uint16_t head_dim, float softmax_scale, bool causal,
    const mfa_quantization_params_t *key_params, const mfa_quantization_params_t *value_params);

/** The gradients with respect to what k and v stand for, FP32 in k's and v's layout, from d_values as
    mfa_attention_backward_query_quantized wrote it. */
MFA_API mfa_status_t mfa_attention_backward_kv_quantized(
    mfa_context_t context, mfa_buffer_t q, mfa_buffer_t k, mfa_buffer_t v, mfa_buffer_t grad_output,
    mfa_buffer_t logsumexp, mfa_buffer_t d_values, mfa_buffer_t grad_key, mfa_buffer_t grad_value, uint32_t batch_size,
    uint32_t seq_len_q, uint32_t seq_len_kv, uint32_t num_heads, uint16_t head_dim, float softmax_scale, bool causal,
    const mfa_quantization_params_t *key_params, const mfa_quantization_params_t *value_params);

/* --------------------------------------------------- the caller's stream */

/*
 * These put a call into a Metal command buffer of the caller's and return; the caller commits it. Nothing is
 * waited for, and mfa_get_gpu_latency does not change. On failure nothing has been encoded.
 *
 * The target is either an id<MTLCommandBuffer> without an open encoder, or an open id<MTLComputeCommandEncoder>,
 * whose pipeline and buffer bindings are then other ones and whose earlier writes to buffers are waited for. It
 * belongs to the context's device and retains what it uses, as command buffers do by default. While a call encodes
 * into it, no other thread may use it.
 *
 * Operands are in buffers for which mfa_buffer_is_zero_copy is true; others, and data without a buffer, are refused
 * with MFA_ERROR_UNSUPPORTED. Metal orders calls by the buffers that they share: what one call hands to another must
 * be in the same buffer, not in two that wrap the same memory. Until the command buffer has completed, wrapped memory
 * must stay valid, and outputs must not be read. Workspaces are made for the call and freed with the command buffer.
 * A backend other than Metal returns MFA_ERROR_UNSUPPORTED.
 */

/**
 * Encodes what mfa_attention_forward_desc would run.
 * @param desc    read during the call only, with the tensors it points to
 * @param target  an id<MTLCommandBuffer> or id<MTLComputeCommandEncoder>
 * @return as mfa_attention_forward_desc; INVALID_ARGS also for a target that is neither, is of another device, or is a
 *         command buffer already committed or without retained references. What fails while the GPU runs is in the
 *         command buffer's status and error.
 */
MFA_API mfa_status_t mfa_attention_forward_encode(mfa_context_t context, const mfa_attention_desc_t *desc,
                                                  void *target);

/** Encodes what mfa_attention_backward_desc would run, likewise. */
MFA_API mfa_status_t mfa_attention_backward_encode(mfa_context_t context, const mfa_attention_backward_desc_t *desc,
                                                   void *target);

/* ------------------------------------------------------------ questions */

/** The name of a status code; a static string, never freed. */
MFA_API const char *mfa_error_string(mfa_status_t status);

/** Detail of this thread's last failure on any context, empty if there was none; valid until this thread's
    next failure. Where there was no memory to keep it, it says that. context may be NULL. */
MFA_API const char *mfa_last_error_message(mfa_context_t context);

/** Whether there is a Metal device that mfa can use. */
MFA_API bool mfa_is_device_supported(void);

/** Version of the library; each pointer may be NULL. */
MFA_API void mfa_get_version(int *major, int *minor, int *patch);

/** Seconds that this thread's last successful attention call took: GPU time on Metal, wall time on the CPU
    backend; 0 before the first, NaN where there was no memory to keep it. context may be NULL. */
MFA_API double mfa_get_gpu_latency(mfa_context_t context);

#ifdef __cplusplus
}
#endif

#endif /* MFA_H */
