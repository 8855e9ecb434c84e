/*
 * Forward, backward, a sliding window, a block mask and quantised keys and values in one Metal command buffer of the
 * program's own, over Metal buffers of its own, each compared with known values: of head 1, row 5, columns 0 to 3. With
 * the argument `bench`, how long calls take; with `refused`, the error of a shape beyond its buffer.
 */
#import "MFAObjects.h"
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { HEADS = 2, ROWS = 8, HEAD_DIM = 8, ELEMENTS = HEADS * ROWS * HEAD_DIM };

static const int64_t shape[4] = {1, HEADS, ROWS, HEAD_DIM};

static int code(int step, int shift, int i) { return (step * i + shift) % 17 - 8; }

static id<MTLBuffer> memory(id<MTLDevice> device, const void *bytes, size_t length) {
    return [[device newBufferWithBytes:bytes length:length options:MTLResourceStorageModeShared] autorelease];
}

static id<MTLBuffer> eighths(id<MTLDevice> device, int step, int shift) {
    float elements[ELEMENTS];
    for (int i = 0; i < ELEMENTS; ++i)
        elements[i] = (float)code(step, shift, i) / 8;
    return memory(device, elements, sizeof elements);
}

static id<MTLBuffer> codes(id<MTLDevice> device, int step, int shift) {
    int8_t elements[ELEMENTS];
    for (int i = 0; i < ELEMENTS; ++i)
        elements[i] = (int8_t)code(step, shift, i);
    return memory(device, elements, sizeof elements);
}

static BOOL known(const char *name, id<MTLBuffer> result, float a, float b, float c, float d) {
    const float *row = (const float *)[result contents] + (1 * ROWS + 5) * HEAD_DIM, expected[4] = {a, b, c, d};
    printf("%s %f %f %f %f\n", name, row[0], row[1], row[2], row[3]);
    for (int column = 0; column < 4; ++column)
        if (!(fabsf(row[column] - expected[column]) < 1e-5f)) {
            fprintf(stderr, "%s is %f in column %d, expected %f\n", name, row[column], column, expected[column]);
            return NO;
        }
    return YES;
}

static MFATensor *floats(MFAContext *context, id<MTLBuffer> buffer, NSError **error) {
    return [context tensorWithBuffer:buffer precision:MFA_PRECISION_FP32 shape:shape error:error];
}

static MFAAttention *attention(MFAContext *context, NSArray *inputs, id<MTLBuffer> out, NSError **error) {
    MFAAttention *made = [[[MFAAttention alloc] init] autorelease];
    made.query = floats(context, [inputs objectAtIndex:0], error);
    made.key = floats(context, [inputs objectAtIndex:1], error);
    made.value = floats(context, [inputs objectAtIndex:2], error);
    made.out = floats(context, out, error);
    return made.query && made.key && made.value && made.out ? made : nil;
}

static BOOL compare(NSError **error) {
    MFAContext *context = [MFAContext contextWithBackend:MFA_BACKEND_METAL threads:0 error:error];
    if (!context)
        return NO;
    id<MTLDevice> device = [MTLCreateSystemDefaultDevice() autorelease];
    id<MTLCommandQueue> queue = [[device newCommandQueue] autorelease];
    id<MTLCommandBuffer> commands = [queue commandBuffer];
    NSArray *inputs =
        [NSArray arrayWithObjects:eighths(device, 5, 0), eighths(device, 7, 3), eighths(device, 11, 5), nil];
    id<MTLBuffer> result[8];
    for (int i = 0; i < 8; ++i)
        result[i] = [[device newBufferWithLength:ELEMENTS * 4 options:MTLResourceStorageModeShared] autorelease];
    /* The CPU reads no logsumexp, so that it may be private. */
    id<MTLBuffer> lse = [[device newBufferWithLength:HEADS * ROWS * 4
                                             options:MTLResourceStorageModePrivate] autorelease];
    const int64_t lse_shape[4] = {1, HEADS, ROWS, 1}, blocks_shape[4] = {1, 1, 2, 4},
                  scales_shape[4] = {1, HEADS, 1, 1};
    const bool seen[8] = {1, 1, 0, 0, 1, 0, 1, 1};
    const float scales[HEADS] = {0.125f, 0.25f};

    MFAAttention *full = attention(context, inputs, result[0], error);
    MFAAttention *causal = attention(context, inputs, result[1], error);
    MFAAttention *window = attention(context, inputs, result[5], error);
    MFAAttention *sparse = attention(context, inputs, result[6], error);
    MFAAttention *small = attention(context, inputs, result[7], error);
    if (!full || !causal || !window || !sparse || !small)
        return NO;
    causal.causal = YES;
    causal.logsumexp = [context tensorWithBuffer:lse precision:MFA_PRECISION_FP32 shape:lse_shape error:error];
    window.windowLeft = 2, window.windowRight = 0;
    sparse.blockRows = 4, sparse.blockKeys = 2;
    sparse.blockMask = [context tensorWithBuffer:memory(device, seen, sizeof seen)
                                       precision:MFA_PRECISION_BOOL
                                           shape:blocks_shape
                                           error:error];
    small.key = [context tensorWithBuffer:codes(device, 7, 3) precision:MFA_PRECISION_INT8 shape:shape error:error];
    small.value = [context tensorWithBuffer:codes(device, 11, 5) precision:MFA_PRECISION_INT8 shape:shape error:error];
    small.keyScales = small.valueScales = [context tensorWithBuffer:memory(device, scales, sizeof scales)
                                                          precision:MFA_PRECISION_FP32
                                                              shape:scales_shape
                                                              error:error];
    MFATensor *dout = floats(context, eighths(device, 3, 1), error);
    MFATensor *dq = floats(context, result[2], error), *dk = floats(context, result[3], error);
    MFATensor *dv = floats(context, result[4], error);
    if (!causal.logsumexp || !sparse.blockMask || !small.key || !small.value || !small.keyScales || !dout || !dq ||
        !dk || !dv)
        return NO;
    for (MFAAttention *call in [NSArray arrayWithObjects:full, causal, window, sparse, small, nil])
        if (![context encodeForward:call into:commands error:error])
            return NO;
    if (![context encodeBackward:causal dout:dout dquery:dq dkey:dk dvalue:dv into:commands error:error])
        return NO;
    [commands commit];
    [commands waitUntilCompleted];
    if ([commands status] != MTLCommandBufferStatusCompleted) {
        *error = [commands error];
        return NO;
    }
    *error = nil;
    return known("forward", result[0], 0.222707f, -0.012910f, -0.264847f, 0.097707f) &
           known("dq", result[2], 0.034121f, -0.116048f, 0.024352f, -0.027352f) &
           known("dk", result[3], 0.044962f, 0.017408f, -0.049931f, 0.036372f) &
           known("dv", result[4], -0.047868f, -0.027844f, 0.124267f, 0.276377f) &
           known("window", result[5], -0.101362f, -0.108237f, 0.523638f, -0.226362f) &
           known("blocks", result[6], 0.510920f, -0.239080f, -0.331950f, 0.385920f) &
           known("quantised", result[7], 0.509885f, -0.074666f, -0.655668f, 0.259885f);
}

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* The seconds that each of `calls` calls took at the best of `rounds`; negative if one failed. */
static double best_of(int threads, int rounds, int calls, int64_t heads, int64_t rows, NSError **error) {
    MFAContext *context = [MFAContext contextWithBackend:MFA_BACKEND_AUTO threads:threads error:error];
    const int64_t sizes[4] = {1, heads, rows, 64};
    MFATensor *of[4];
    for (int i = 0; i < 4; ++i) {
        NSMutableData *data = [NSMutableData dataWithLength:(NSUInteger)(heads * rows * 64) * sizeof(float)];
        float *elements = [data mutableBytes];
        for (int64_t j = 0; j < heads * rows * 64; ++j)
            elements[j] = (float)((2 * i + 5) * j % 17) / 8 - 1;
        of[i] = [context tensorWithData:data precision:MFA_PRECISION_FP32 shape:sizes error:error];
        if (!of[i])
            return -1;
    }
    MFAAttention *call = [[[MFAAttention alloc] init] autorelease];
    call.query = of[0], call.key = of[1], call.value = of[2], call.out = of[3];
    double best = 1e30;
    for (int round = 0; round < rounds; ++round) {
        const double start = seconds();
        for (int i = 0; i < calls; ++i)
            if (![context forward:call error:error])
                return -1;
        best = fmin(best, (seconds() - start) / calls);
    }
    return best;
}

static BOOL bench(NSError **error) {
    const double large = best_of(0, 10, 1, 8, 1024, error);
    const double small = large < 0 ? -1 : best_of(1, 1, 5000, 1, 16, error);
    if (small < 0)
        return NO;
    printf("forward 1x8x1024x64 float32: %.2f ms, %.1f GINSTRS/s\n", 1e3 * large,
           (2.0 * 64 + 5) * 8 * 1024 * 1024 / large / 1e9);
    printf("call 1x1x16x64 float32: %.2f us\n", 1e6 * small);
    return YES;
}

static BOOL refused(NSError **error) {
    MFAContext *context = [MFAContext contextWithBackend:MFA_BACKEND_AUTO threads:1 error:error];
    NSMutableData *data = [NSMutableData dataWithLength:ELEMENTS * 4 - 4];
    MFAAttention *call = [[[MFAAttention alloc] init] autorelease];
    call.query = [context tensorWithData:data precision:MFA_PRECISION_FP32 shape:shape error:error];
    call.key = call.value = call.out = call.query;
    return [context forward:call error:error];
}

int main(int argc, char **argv) {
    @autoreleasepool {
        NSError *error = nil;
        const char *what = argc > 1 ? argv[1] : "";
        BOOL ok;
        if (strcmp(what, "bench") == 0)
            ok = bench(&error);
        else
            ok = strcmp(what, "refused") == 0 ? refused(&error) : compare(&error);
        if (!ok && error)
            fprintf(stderr, "%s %d: %s\n", [[error domain] UTF8String], (int)[error code],
                    [[error localizedDescription] UTF8String]);
        return !ok;
    }
}
