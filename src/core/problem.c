#include "core/problem.h"

#include <inttypes.h>
#include <math.h>

#include "core/append.h"
#include "core/blocks.h"
#include "core/operands.h"
#include "core/quantization.h"
#include "core/sequences.h"
#include "core/versioned.h"

/* Beyond this, sums of lengths, offsets and bounds would leave 64 bits. */
static const int64_t most_rows = INT64_MAX / 8;

/* Sizes come from query, key and value; all else is held against them. */
static mfa_status_t set_sizes(const mfa_sequences_t *sequences, mfai_problem_t *p) {
    p->heads = p->query.shape[1];
    p->head_dim = p->query.shape[3];
    p->kv_heads = p->key.shape[1];
    p->value_dim = p->value.shape[3];
    MFAI_TRY(mfai_quantization_check_formats(p));
    MFAI_REQUIRE(p->head_dim >= 1, "query has head_dim 0, expected 1 or more");
    MFAI_REQUIRE(p->value_dim >= 1, "value has head_dim 0, expected 1 or more");
    MFAI_REQUIRE(p->heads >= 1, "query has 0 heads, expected 1 or more");
    MFAI_REQUIRE(p->kv_heads >= 1 && p->heads % p->kv_heads == 0,
                 "key has %" PRId64 " heads, expected a divisor of query's %" PRId64, p->kv_heads, p->heads);
    p->group = p->heads / p->kv_heads;
    MFAI_TRY(mfai_sequences_set_sizes(sequences, p));
    MFAI_REQUIRE(p->query_count <= most_rows, "query has %" PRId64 " rows, expected at most %" PRId64, p->query_count,
                 most_rows);
    MFAI_REQUIRE(p->key_count <= most_rows, "key has %" PRId64 " rows, expected at most %" PRId64, p->key_count,
                 most_rows);
    return MFA_SUCCESS;
}

/* Bounds beyond any key change nothing; cutting them keeps later sums inside 64 bits. */
static int64_t clamp_bound(int64_t bound, int64_t most) { return bound < most ? bound : most; }

static mfa_status_t set_key_range(const mfa_attention_desc_t *desc, mfai_problem_t *p) {
    const bool causal = desc->flags & MFA_ATTENTION_CAUSAL;
    const bool has_window = desc->window_left >= 0 || desc->window_right >= 0;
    const bool is_aligned = desc->alignment != MFA_ALIGN_NONE;
    MFAI_REQUIRE(desc->alignment >= MFA_ALIGN_NONE && desc->alignment <= MFA_ALIGN_BOTTOM_RIGHT,
                 "alignment is %d, not an MFA_ALIGN_...", desc->alignment);
    MFAI_REQUIRE(is_aligned || !(causal || desc->chunk > 0 || p->alibi_slopes.present),
                 "alignment is MFA_ALIGN_NONE, but %s needs TOP_LEFT or BOTTOM_RIGHT",
                 causal            ? "MFA_ATTENTION_CAUSAL"
                 : desc->chunk > 0 ? "chunk"
                                   : "alibi_slopes");
    /* What a descriptor of zeros has, which its maker did not mean to say. */
    MFAI_REQUIRE(is_aligned || !has_window,
                 "alignment is MFA_ALIGN_NONE, but a window needs TOP_LEFT or BOTTOM_RIGHT: window_left is %" PRId64
                 " and window_right is %" PRId64 ", and -1 is no bound, as in MFA_ATTENTION_DESC_INIT",
                 desc->window_left, desc->window_right);
    MFAI_REQUIRE(desc->window_left >= -1, "window_left is %" PRId64 ", expected -1 (unbounded) or more",
                 desc->window_left);
    MFAI_REQUIRE(desc->window_right >= -1, "window_right is %" PRId64 ", expected -1 (unbounded) or more",
                 desc->window_right);
    MFAI_REQUIRE(desc->chunk >= 0, "chunk is %" PRId64 ", expected 0 (off) or more", desc->chunk);
    p->is_bottom_right = desc->alignment == MFA_ALIGN_BOTTOM_RIGHT;
    p->chunk = clamp_bound(desc->chunk, p->key_count + p->query_count + 1);
    p->window_left = clamp_bound(desc->window_left, p->key_count + p->query_count);
    p->window_right = causal ? 0 : clamp_bound(desc->window_right, p->key_count + p->query_count);
    return MFA_SUCCESS;
}

static mfa_status_t set_scores(const mfa_attention_desc_t *desc, mfai_problem_t *p) {
    const bool literal = desc->flags & MFA_ATTENTION_LITERAL_SCALE;
    MFAI_REQUIRE(isfinite(desc->softmax_scale), "softmax_scale is %g, expected a finite number", desc->softmax_scale);
    MFAI_REQUIRE(isfinite(desc->softcap) && desc->softcap >= 0,
                 "softcap is %g, expected 0 (off) or a finite positive number", desc->softcap);
    MFAI_REQUIRE(!p->query_value.present || p->query_value.format == p->query.format,
                 "query_value.precision is %s, expected query's, %s", mfai_formats[p->query_value.format].name,
                 mfai_formats[p->query.format].name);
    const int32_t weights = desc->intermediate_precision;
    MFAI_REQUIRE(weights >= MFA_PRECISION_DEFAULT && weights <= MFA_PRECISION_FP32,
                 "intermediate_precision is %d, expected MFA_PRECISION_DEFAULT, FP16, BF16 or FP32", weights);
    const double columns = (double)p->head_dim + (p->query_value.present ? (double)p->value_dim : 0);
    p->softmax_scale = desc->softmax_scale == 0 && !literal ? (float)(1 / sqrt(columns)) : desc->softmax_scale;
    p->softcap = desc->softcap;
    p->features |= weights == MFA_PRECISION_FP32 ? MFAI_EXACT_WEIGHTS : 0;
    return MFA_SUCCESS;
}

static mfa_status_t set_dropout(const mfa_attention_desc_t *desc, mfai_problem_t *p) {
    MFAI_REQUIRE(desc->dropout_p >= 0 && desc->dropout_p < 1, "dropout_p is %g, expected at least 0 and less than 1",
                 desc->dropout_p);
    MFAI_REQUIRE(desc->reserved == 0, "reserved is %u, expected 0", desc->reserved);
    p->dropout_p = desc->dropout_p;
    p->dropout_seed = desc->dropout_seed;
    p->dropout_offset = desc->dropout_offset;
    return MFA_SUCCESS;
}

void mfai_problem_find_features(mfai_problem_t *p) {
    p->features |= (p->logsumexp.present ? MFAI_LOGSUMEXP : 0) | (p->bool_mask.present ? MFAI_BOOL_MASK : 0) |
                   (p->additive_mask.present ? MFAI_ADDITIVE_MASK : 0) | (p->alibi_slopes.present ? MFAI_ALIBI : 0) |
                   (p->sinks.present ? MFAI_SINKS : 0) | (p->softcap > 0 ? MFAI_SOFTCAP : 0) |
                   (p->dropout_p > 0 ? MFAI_DROPOUT : 0) | (p->blocks.present || p->block_rows > 0 ? MFAI_BLOCKS : 0) |
                   (p->page_table.present ? MFAI_PAGES : 0) | (p->chunk > 0 ? MFAI_CHUNK : 0) |
                   (p->new_key.present ? MFAI_APPEND : 0) | (p->rotary_cos.present ? MFAI_ROTARY : 0) |
                   (p->query_value.present ? MFAI_QUERY_VALUE : 0) |
                   (mfai_view_has_codes(&p->key) ? MFAI_KEY_CODES : 0) |
                   (mfai_view_has_codes(&p->value) ? MFAI_VALUE_CODES : 0) |
                   (p->query_scale.present || p->key_scale.present || p->value_scale.present ? MFAI_SCALES : 0);
}

/* One of the descriptor's own structs, imported as `known`, and its operands. */
#define IMPORT_PART(desc, member, NAME, part, known)                                                              \
    do {                                                                                                          \
        MFAI_TRY(mfai_struct_import(#member, (desc)->member, MFAI_##NAME##_FIRST_SIZE, sizeof(known), &(known))); \
        MFAI_TRY(mfai_operands_import(context, part, &(known), problem));                                         \
    } while (0)

static mfa_status_t import_parts(mfa_context_t context, const mfa_attention_desc_t *desc, mfa_sequences_t *sequences,
                                 mfai_problem_t *problem) {
    if (desc->sequences != NULL) {
        IMPORT_PART(desc, sequences, SEQUENCES, MFAI_DESC_SEQUENCES, *sequences);
        MFAI_REQUIRE(sequences->reserved == 0, "sequences.reserved is %u, expected 0", sequences->reserved);
    }
    if (desc->pages != NULL) {
        mfa_pages_t pages = MFA_PAGES_INIT;
        IMPORT_PART(desc, pages, PAGES, MFAI_DESC_PAGES, pages);
        MFAI_REQUIRE(pages.reserved == 0, "pages.reserved is %u, expected 0", pages.reserved);
    }
    if (desc->blocks != NULL) {
        mfa_blocks_t blocks = MFA_BLOCKS_INIT;
        IMPORT_PART(desc, blocks, BLOCKS, MFAI_DESC_BLOCKS, blocks);
        MFAI_REQUIRE(blocks.reserved == 0, "blocks.reserved is %u, expected 0", blocks.reserved);
        MFAI_REQUIRE(blocks.block_rows > 0, "blocks.block_rows is %" PRId64 ", expected 1 or more", blocks.block_rows);
        MFAI_REQUIRE(blocks.block_keys > 0, "blocks.block_keys is %" PRId64 ", expected 1 or more", blocks.block_keys);
        problem->block_rows = blocks.block_rows;
        problem->block_keys = blocks.block_keys;
    }
    if (desc->append != NULL) {
        mfa_append_t append = MFA_APPEND_INIT;
        IMPORT_PART(desc, append, APPEND, MFAI_DESC_APPEND, append);
        MFAI_REQUIRE((append.flags & ~MFA_APPEND_INTERLEAVED) == 0,
                     "append.flags is 0x%x, which has bits this library does not know (known: 0x%x)", append.flags,
                     MFA_APPEND_INTERLEAVED);
        problem->is_interleaved = append.flags & MFA_APPEND_INTERLEAVED;
    }
    if (desc->scales != NULL) {
        mfa_scales_t scales = MFA_SCALES_INIT;
        IMPORT_PART(desc, scales, SCALES, MFAI_DESC_SCALES, scales);
        MFAI_REQUIRE(scales.reserved == 0, "scales.reserved is %u, expected 0", scales.reserved);
    }
    if (desc->key_quantization != NULL) {
        mfa_quantization_t quantization = MFA_QUANTIZATION_INIT;
        IMPORT_PART(desc, key_quantization, QUANTIZATION, MFAI_DESC_KEY_QUANTIZATION, quantization);
        MFAI_TRY(mfai_quantization_set("key_quantization", &quantization, &problem->key_quantization));
    }
    if (desc->value_quantization != NULL) {
        mfa_quantization_t quantization = MFA_QUANTIZATION_INIT;
        IMPORT_PART(desc, value_quantization, QUANTIZATION, MFAI_DESC_VALUE_QUANTIZATION, quantization);
        MFAI_REQUIRE(quantization.mean == NULL, "value_quantization.mean is set, expected NULL: only keys have one");
        MFAI_TRY(mfai_quantization_set("value_quantization", &quantization, &problem->value_quantization));
    }
    return MFA_SUCCESS;
}

static mfa_status_t set_compute_mode(const mfa_attention_desc_t *desc, mfai_problem_t *p) {
    MFAI_REQUIRE(desc->compute_mode == MFA_COMPUTE_EXACT || desc->compute_mode == MFA_COMPUTE_INT8,
                 "compute_mode is %d, not an MFA_COMPUTE_...", desc->compute_mode);
    MFAI_REQUIRE(desc->reserved2 == 0, "reserved2 is %u, expected 0", desc->reserved2);
    if (desc->compute_mode == MFA_COMPUTE_EXACT)
        return MFA_SUCCESS;
    MFAI_REQUIRE(mfai_view_has_codes(&p->key), "compute_mode is MFA_COMPUTE_INT8, but key.precision is %s, no codes",
                 mfai_formats[p->key.format].name);
    MFAI_REQUIRE(mfai_view_has_codes(&p->value),
                 "compute_mode is MFA_COMPUTE_INT8, but value.precision is %s, no codes",
                 mfai_formats[p->value.format].name);
    MFAI_REQUIRE(!p->query_value.present, "compute_mode is MFA_COMPUTE_INT8, but query_value is set");
    MFAI_REQUIRE(!(p->features & MFAI_EXACT_WEIGHTS),
                 "compute_mode is MFA_COMPUTE_INT8, which rounds softmax weights, but intermediate_precision is FP32");
    p->features |= MFAI_INT8;
    return MFA_SUCCESS;
}

static mfa_status_t refuse_forward_only(const mfa_attention_desc_t *desc) {
    const struct {
        const char *name;
        const void *given;
    } members[] = {{"append", desc->append}, {"query_value", desc->query_value}, {"scales", desc->scales}};
    for (size_t i = 0; i < sizeof members / sizeof *members; ++i)
        MFAI_REQUIRE(members[i].given == NULL, "forward.%s is set, expected NULL: it has no backward pass",
                     members[i].name);
    return MFA_SUCCESS;
}

/* What the descriptor of the forward pass says, which every pass has. */
static mfa_status_t import_forward(mfa_context_t context, const char *name, const mfa_attention_desc_t *caller,
                                   mfai_problem_t *problem) {
    mfa_attention_desc_t desc = MFA_ATTENTION_DESC_INIT;
    MFAI_TRY(mfai_struct_import(name, caller, MFAI_ATTENTION_DESC_FIRST_SIZE, sizeof desc, &desc));
    const uint32_t known = MFA_ATTENTION_CAUSAL | MFA_ATTENTION_LITERAL_SCALE;
    MFAI_REQUIRE((desc.flags & ~known) == 0, "flags is 0x%x, which has bits this library does not know (known: 0x%x)",
                 desc.flags, known);
    if (problem->pass == MFAI_BACKWARD)
        MFAI_TRY(refuse_forward_only(&desc));
    MFAI_TRY(mfai_operands_import(context, MFAI_DESC_FORWARD, &desc, problem));
    mfa_sequences_t sequences = MFA_SEQUENCES_INIT;
    MFAI_TRY(import_parts(context, &desc, &sequences, problem));
    MFAI_TRY(set_sizes(desc.sequences != NULL ? &sequences : NULL, problem));
    MFAI_TRY(set_key_range(&desc, problem));
    MFAI_TRY(set_scores(&desc, problem));
    MFAI_TRY(set_compute_mode(&desc, problem));
    MFAI_TRY(set_dropout(&desc, problem));
    MFAI_TRY(mfai_append_check_positions(problem));
    mfai_problem_find_features(problem);
    return MFA_SUCCESS;
}

static mfa_status_t import_backward(mfa_context_t context, const mfa_attention_backward_desc_t *caller,
                                    mfai_problem_t *problem) {
    mfa_attention_backward_desc_t desc = MFA_ATTENTION_BACKWARD_DESC_INIT;
    MFAI_TRY(mfai_struct_import("desc", caller, MFAI_BACKWARD_DESC_FIRST_SIZE, sizeof desc, &desc));
    MFAI_REQUIRE((desc.flags & ~MFA_BACKWARD_ZERO_CLIPPED) == 0,
                 "flags is 0x%x, which has bits this library does not know (known: 0x%x)", desc.flags,
                 MFA_BACKWARD_ZERO_CLIPPED);
    MFAI_TRY(import_forward(context, "forward", desc.forward, problem));
    MFAI_TRY(mfai_operands_import(context, MFAI_DESC_BACKWARD, &desc, problem));
    MFAI_REQUIRE(problem->out.present || problem->delta.present,
                 "out is NULL, expected what the forward call wrote, or delta");
    const bool has_codes = problem->features & (MFAI_KEY_CODES | MFAI_VALUE_CODES);
    problem->features |= has_codes && desc.flags & MFA_BACKWARD_ZERO_CLIPPED ? MFAI_ZERO_CLIPPED : 0;
    return MFA_SUCCESS;
}

static mfa_status_t import(mfa_context_t context, mfai_pass_t pass, const void *desc, mfai_problem_t *problem) {
    if (pass == MFAI_BACKWARD)
        MFAI_TRY(import_backward(context, desc, problem));
    else
        MFAI_TRY(import_forward(context, "desc", desc, problem));
    mfai_sequences_lay_out(problem);
    MFAI_TRY(mfai_operands_check_shapes(problem, MFAI_OTHER_PARTS));
    MFAI_TRY(mfai_blocks_check(problem));
    return mfai_operands_check_results(problem);
}

mfa_status_t mfai_problem_import(mfa_context_t context, mfai_pass_t pass, const void *desc, mfai_problem_t *problem) {
    *problem = (mfai_problem_t){.pass = pass};
    const mfa_status_t status = import(context, pass, desc, problem);
    if (status != MFA_SUCCESS)
        mfai_problem_release(problem);
    return status;
}
