/*
 * Has Metal's compiler take the kernels in every specialisation of the tile table, and with every type and feature at
 * one head dimension. Where the device can run them, its own compiler takes them too and says whether it has room for
 * their threads; elsewhere Metal's goes as far as it can.
 *
 * Usage: specialisations [STRIDE]    only every STRIDE-th
 */
#import <Metal/Metal.h>
#include <float.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#import "metal/backward.h"
#import "metal/device.h"
#import "metal/forward.h"

enum { QUERIES = 64, KEYS = 256, HEADS = 2, USUAL_DIM = 64 };

/* The shape, types and features of one attention call. */
typedef struct {
    int64_t query_count, head_dim, value_dim;
    int32_t precision, out, dout, gradient, mask; /* mask: of the additive mask; -1: none */
    bool logsumexp, bool_mask, alibi, sinks, softcap, dropout, exact_weights, huge_scale, chunk, query_value;
    bool block_lists, block_table, block_masks;
    bool rotary, interleaved, float_tables;
    unsigned lists, scales; /* MFA_LIST_..., MFA_SCALE_... */
    int32_t key, value;     /* formats of codes; 0: as query */
    unsigned codes;         /* MFA_CODES_..., of both */
    bool integers, zero_clipped;
    bool dkey, dvalue, delta, no_out, dlogsumexp; /* no_out: delta is read */
} variant_t;

typedef struct {
    mfai_metal_device_t device;
    bool runs; /* whether the device can run kernels */
    NSMutableSet *seen;
    unsigned long stride, taken, failed;
} compiler_t;

static NSString *name_of(const mfai_metal_kernel_t *kernel) {
    NSMutableString *name = [NSMutableString stringWithUTF8String:kernel->name];
    char value[16];
    for (int i = 0; i < MFAI_METAL_MACROS; ++i)
        if (mfai_metal_kernel_macro(kernel, i, value))
            [name appendFormat:@" %s=%s", mfai_metal_macro_name(i), value];
    for (int i = 0; i < MFA_CONSTANTS; ++i)
        [name appendFormat:@" %d=%u", i, kernel->constants[i]];
    return name;
}

static void take(compiler_t *compiler, const mfai_metal_kernel_t *kernel, unsigned threads) {
    NSString *name = name_of(kernel);
    if ([compiler->seen containsObject:name])
        return;
    [compiler->seen addObject:name];
    if (([compiler->seen count] - 1) % compiler->stride != 0)
        return;
    mfai_metal_device_t *device = &compiler->device;
    id<MTLFunction> function = nil;
    id<MTLComputePipelineState> pipeline = nil;
    const mfa_status_t status =
        compiler->runs ? mfai_metal_pipelines_find(&device->pipelines, device->gpu, kernel, threads, &pipeline)
                       : mfai_metal_pipelines_specialise(&device->pipelines, device->gpu, kernel, &function);
    ++compiler->taken;
    if (status != MFA_SUCCESS) {
        ++compiler->failed;
        fprintf(stderr, "%s\n  %s\n", [name UTF8String], mfa_last_error_message(NULL));
    }
}

static void take_call(compiler_t *compiler, const mfai_metal_call_t *call) {
    for (int i = 0; i < call->dispatch_count; ++i)
        for (int vectors = 0; vectors < 2; ++vectors)
            @autoreleasepool {
                mfai_metal_kernel_t kernel = call->dispatches[i].kernel;
                kernel.constants[MFA_CONSTANT_VECTORS] = vectors != 0;
                take(compiler, &kernel, call->dispatches[i].threads);
            }
}

static mfai_view_t view(bool present, int32_t precision) {
    return (mfai_view_t){.present = present, .format = precision};
}

static mfai_view_t list(const variant_t *v, unsigned which) { return view(v->lists & which, MFA_PRECISION_INT32); }

static mfai_view_t scale(const variant_t *v, unsigned which) { return view(v->scales & which, MFA_PRECISION_FP32); }

static mfai_quantization_t quantization(const variant_t *v, int32_t format, bool is_key) {
    mfai_quantization_t q = {0};
    if (format == 0)
        return q;
    q.columns = v->codes & MFA_CODES_COLUMNS ? 1 : v->codes & MFA_CODES_GROUPS ? 32 : 0;
    q.scales = view(true, v->codes & MFA_CODES_HALF_SCALES ? MFA_PRECISION_FP16 : MFA_PRECISION_FP32);
    q.scales.shape[2] = 1; /* which leave products of integers */
    q.zero_points = view(v->codes & MFA_CODES_ZERO_POINTS, v->codes & MFA_CODES_SIGNED_BYTES     ? MFA_PRECISION_INT8
                                                           : v->codes & MFA_CODES_UNSIGNED_BYTES ? MFA_PRECISION_UINT8
                                                                                                 : MFA_PRECISION_INT32);
    q.mean = view(is_key && v->codes & MFA_CODES_MEAN, MFA_PRECISION_FP32);
    return q;
}

static mfai_problem_t problem_of(const variant_t *v) {
    mfai_problem_t p = {.batch = 1,
                        .heads = HEADS,
                        .kv_heads = 1,
                        .group = HEADS,
                        .query_count = v->query_count,
                        .key_count = KEYS,
                        .head_dim = v->head_dim,
                        .value_dim = v->value_dim,
                        .query = view(true, v->precision),
                        .key = view(true, v->key != 0 ? v->key : v->precision),
                        .value = view(true, v->value != 0 ? v->value : v->precision),
                        .key_quantization = quantization(v, v->key, true),
                        .value_quantization = quantization(v, v->value, false),
                        .out = view(true, v->out),
                        .logsumexp = view(v->logsumexp, MFA_PRECISION_FP32),
                        .bool_mask = view(v->bool_mask, MFA_PRECISION_BOOL),
                        .additive_mask = view(v->mask >= 0, v->mask),
                        .alibi_slopes = view(v->alibi, MFA_PRECISION_FP32),
                        .sinks = view(v->sinks, MFA_PRECISION_FP32),
                        .block_rows = v->block_lists || v->block_table ? 128 : 0,
                        .block_keys = v->block_lists || v->block_table ? 128 : 0,
                        .kv_num_blocks = view(v->block_lists, MFA_PRECISION_INT32),
                        .kv_indices = view(v->block_lists, MFA_PRECISION_INT32),
                        .full_kv_num_blocks = view(v->block_lists, MFA_PRECISION_INT32),
                        .full_kv_indices = view(v->block_lists, MFA_PRECISION_INT32),
                        .block_mask = view(v->block_table, MFA_PRECISION_BOOL),
                        .masks = view(v->block_masks, MFA_PRECISION_BOOL),
                        .mask_indices = view(v->block_masks, MFA_PRECISION_INT32),
                        .softmax_scale = v->huge_scale ? FLT_MAX : 1,
                        .softcap = v->softcap ? 1 : 0,
                        .features = v->exact_weights ? MFAI_EXACT_WEIGHTS : 0,
                        .window_left = -1,
                        .window_right = -1,
                        .chunk = v->chunk ? KEYS / 2 : 0,
                        .query_starts = list(v, MFA_LIST_QUERY_STARTS),
                        .key_starts = list(v, MFA_LIST_KEY_STARTS),
                        .query_lengths = list(v, MFA_LIST_QUERY_LENGTHS),
                        .key_lengths = list(v, MFA_LIST_KEY_LENGTHS),
                        .left_padding = list(v, MFA_LIST_LEFT_PADDING),
                        .key_batches = list(v, MFA_LIST_KEY_BATCHES),
                        .page_table = list(v, MFA_LIST_PAGE_TABLE),
                        .new_key = view(v->lists & MFA_LIST_APPEND, v->precision),
                        .new_value = view(v->lists & MFA_LIST_APPEND, v->precision),
                        .new_starts = list(v, MFA_LIST_NEW_STARTS),
                        .rotary_cos = view(v->rotary, v->float_tables ? MFA_PRECISION_FP32 : v->precision),
                        .rotary_sin = view(v->rotary, v->float_tables ? MFA_PRECISION_FP32 : v->precision),
                        .rotary_positions = list(v, MFA_LIST_ROTARY_POSITIONS),
                        .is_interleaved = v->interleaved,
                        .query_value = view(v->query_value, v->precision),
                        .query_scale = scale(v, MFA_SCALE_QUERY),
                        .key_scale = scale(v, MFA_SCALE_KEY),
                        .value_scale = scale(v, MFA_SCALE_VALUE),
                        .dropout_p = v->dropout ? 0.5f : 0};
    p.features |= (v->lists != 0 ? MFAI_SEQUENCES : 0) | (v->integers ? MFAI_INT8 : 0);
    mfai_problem_find_features(&p);
    return p;
}

static mfai_problem_t backward_of(const variant_t *v) {
    mfai_problem_t p = problem_of(v);
    p.pass = MFAI_BACKWARD;
    p.query_value.present = p.query_scale.present = p.key_scale.present = p.value_scale.present = false;
    p.new_key.present = p.new_value.present = p.new_starts.present = p.rotary_positions.present = false;
    p.rotary_cos.present = p.rotary_sin.present = false;
    p.features &= ~(unsigned)(MFAI_QUERY_VALUE | MFAI_SCALES | MFAI_APPEND | MFAI_ROTARY);
    p.features |= v->zero_clipped ? MFAI_ZERO_CLIPPED : 0;
    p.out.present = !v->no_out;
    p.delta = view(v->delta, MFA_PRECISION_FP32);
    p.dlogsumexp = view(v->dlogsumexp, MFA_PRECISION_FP32);
    p.dout = view(true, v->dout);
    p.dquery = view(true, v->gradient);
    p.dkey = view(v->dkey, v->gradient);
    p.dvalue = view(v->dvalue, v->gradient);
    p.dsinks = view(v->sinks, MFA_PRECISION_FP32);
    p.dbias = view(v->mask >= 0, v->gradient);
    const int64_t shape[4] = {1, HEADS, v->query_count, KEYS};
    memcpy(p.dbias.shape, shape, sizeof shape);
    return p;
}

/* All kernels of both passes, and of decode. */
static void take_variant(compiler_t *compiler, variant_t v) {
    mfai_metal_call_t call;
    mfai_problem_t forward = problem_of(&v);
    const mfai_problem_t backward = backward_of(&v);
    if (mfai_metal_forward_make(&compiler->device, &forward, &call) != MFA_SUCCESS)
        abort();
    take_call(compiler, &call);
    if (mfai_metal_backward_make(&compiler->device, &backward, &call) != MFA_SUCCESS)
        abort();
    take_call(compiler, &call);
    forward.query_count = 1;
    if (mfai_metal_forward_make(&compiler->device, &forward, &call) != MFA_SUCCESS)
        abort();
    take_call(compiler, &call);
}

static variant_t plain(int32_t precision, int64_t head_dim, int64_t value_dim) {
    return (variant_t){.query_count = QUERIES,
                       .head_dim = head_dim,
                       .value_dim = value_dim,
                       .precision = precision,
                       .out = precision,
                       .dout = precision,
                       .gradient = precision,
                       .mask = -1,
                       .dkey = true,
                       .dvalue = true};
}

static variant_t with_everything(variant_t v, int32_t mask) {
    v.mask = mask;
    v.logsumexp = v.bool_mask = v.alibi = v.sinks = v.softcap = v.dropout = v.exact_weights = v.chunk = true;
    v.query_value = v.block_lists = v.block_masks = true;
    v.rotary = v.interleaved = v.float_tables = true;
    v.lists = v.scales = ~0u;
    v.delta = v.dlogsumexp = true;
    return v;
}

static const int32_t precisions[] = {MFA_PRECISION_FP16, MFA_PRECISION_BF16, MFA_PRECISION_FP32};
enum { PRECISIONS = sizeof precisions / sizeof *precisions };

/* Each row of the table on both sides of its limit, with nothing and with everything. */
static void take_table(compiler_t *compiler) {
    static const int64_t dims[][2] = {{8, 8},     {32, 32},   {40, 40},   {64, 64},   {80, 80},
                                      {96, 96},   {104, 104}, {128, 128}, {136, 136}, {160, 160},
                                      {168, 168}, {192, 192}, {192, 128}, {200, 200}, {256, 256},
                                      {264, 264}, {512, 512}, {64, 512},  {576, 64}};
    for (size_t d = 0; d < sizeof dims / sizeof *dims; ++d)
        for (int i = 0; i < PRECISIONS; ++i) {
            const variant_t nothing = plain(precisions[i], dims[d][0], dims[d][1]);
            take_variant(compiler, nothing);
            take_variant(compiler, with_everything(nothing, precisions[i]));
        }
}

static void take_types(compiler_t *compiler) {
    for (int i = 0; i < PRECISIONS; ++i)
        for (int j = 0; j < PRECISIONS; ++j) {
            variant_t v = plain(precisions[i], USUAL_DIM, USUAL_DIM);
            v.out = v.dout = v.gradient = precisions[j];
            take_variant(compiler, v);
            take_variant(compiler, with_everything(v, precisions[j]));
        }
}

static void take_features(compiler_t *compiler) {
    const variant_t nothing = plain(MFA_PRECISION_FP16, USUAL_DIM, USUAL_DIM);
    variant_t v[25];
    for (size_t i = 0; i < sizeof v / sizeof *v; ++i)
        v[i] = nothing;
    v[0].logsumexp = true;
    v[1].bool_mask = true;
    v[2].mask = MFA_PRECISION_FP32;
    v[3].alibi = true;
    v[4].sinks = true;
    v[5].softcap = true;
    v[6].dropout = true;
    v[7].exact_weights = true;
    v[8].dkey = false;
    v[9].dvalue = false;
    v[10].huge_scale = true;
    v[11].block_lists = true;
    v[12].chunk = true;
    v[13].lists = MFA_LIST_QUERY_STARTS | MFA_LIST_KEY_STARTS;
    v[14].lists = MFA_LIST_QUERY_LENGTHS | MFA_LIST_KEY_LENGTHS | MFA_LIST_PAGE_TABLE;
    v[15].query_value = true;
    v[16].scales = MFA_SCALE_QUERY | MFA_SCALE_VALUE;
    v[17].lists = MFA_LIST_APPEND | MFA_LIST_KEY_LENGTHS;
    v[18].lists = MFA_LIST_APPEND | MFA_LIST_KEY_LENGTHS | MFA_LIST_NEW_STARTS;
    v[18].rotary = true;
    v[19] = v[18];
    v[19].interleaved = v[19].float_tables = true;
    v[20].block_table = true;
    v[21].block_lists = v[21].block_masks = true;
    v[22].delta = true;
    v[23].delta = v[23].no_out = true;
    v[24].dlogsumexp = true;
    for (size_t i = 0; i < sizeof v / sizeof *v; ++i)
        take_variant(compiler, v[i]);
}

/* Each format of codes, and what they may stand for. */
static void take_codes(compiler_t *compiler) {
    static const int32_t formats[][2] = {{MFA_PRECISION_INT8, 0},
                                         {0, MFA_PRECISION_UINT8},
                                         {MFA_PRECISION_INT4, MFA_PRECISION_UINT4},
                                         {MFA_PRECISION_UINT4, MFA_PRECISION_INT4},
                                         {MFA_PRECISION_UINT8, MFA_PRECISION_INT8}};
    static const unsigned codes[] = {0, MFA_CODES_HALF_SCALES | MFA_CODES_GROUPS, MFA_CODES_COLUMNS | MFA_CODES_MEAN,
                                     MFA_CODES_ZERO_POINTS | MFA_CODES_SIGNED_BYTES,
                                     MFA_CODES_ZERO_POINTS | MFA_CODES_UNSIGNED_BYTES};
    for (size_t i = 0; i < sizeof formats / sizeof *formats; ++i)
        for (size_t j = 0; j < sizeof codes / sizeof *codes; ++j) {
            variant_t v = plain(MFA_PRECISION_FP16, USUAL_DIM, USUAL_DIM);
            v.key = formats[i][0];
            v.value = formats[i][1];
            v.codes = codes[j];
            v.lists = MFA_LIST_APPEND | MFA_LIST_KEY_LENGTHS;
            v.zero_clipped = j % 2 != 0;
            take_variant(compiler, v);
            v.integers = v.key != 0 && v.value != 0;
            v.rotary = j % 2 != 0;
            take_variant(compiler, v);
        }
}

int main(int argc, char **argv) {
    @autoreleasepool {
        compiler_t compiler = {.runs = mfai_metal_is_available(NULL), .stride = 1};
        if (argc > 1)
            compiler.stride = strtoul(argv[1], NULL, 10);
        compiler.device.gpu = MTLCreateSystemDefaultDevice();
        if (argc > 2 || compiler.stride == 0 || compiler.device.gpu == nil) {
            fprintf(stderr, "usage: %s [STRIDE], on a machine with a Metal device\n", argv[0]);
            return 2;
        }
        compiler.seen = [[NSMutableSet alloc] init];
        mfai_metal_pipelines_open(&compiler.device.pipelines);
        for (int family = MFAI_METAL_APPLE7; family <= MFAI_METAL_APPLE10; ++family) {
            compiler.device.family = family;
            take_table(&compiler);
            take_types(&compiler);
            take_features(&compiler);
            take_codes(&compiler);
        }
        printf("%lu of %lu specialisations%s, %lu failed\n", compiler.taken, (unsigned long)[compiler.seen count],
               compiler.runs ? " and their pipelines" : "", compiler.failed);
        mfai_metal_pipelines_close(&compiler.device.pipelines);
        [compiler.seen release];
        [compiler.device.gpu release];
        return compiler.failed != 0;
    }
}
