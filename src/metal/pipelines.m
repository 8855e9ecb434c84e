#if defined(__APPLE__) || !defined(SWIFT_PACKAGE) /* a Swift package compiles every source everywhere */
#import "metal/pipelines.h"

#include <stddef.h>
#include <string.h>

#import "metal/ownership.h"
#include "metal/sources.h"

/* ------------------------------------------------------------------ keys */

/* The address of the name stands for it: a kernel whose name lies at two is compiled twice. */
enum {
    LIBRARY_KEY_BYTES = offsetof(mfai_metal_kernel_t, constants),
    PIPELINE_KEY_BYTES = LIBRARY_KEY_BYTES + sizeof(uint32_t[MFA_CONSTANTS])
};
_Static_assert(LIBRARY_KEY_BYTES == sizeof(char *) + sizeof(int32_t[MFAI_METAL_MACROS]), "no padding");

static NSData *library_key(const mfai_metal_kernel_t *kernel) {
    return [NSData dataWithBytes:kernel length:LIBRARY_KEY_BYTES];
}

static NSData *pipeline_key(const mfai_metal_kernel_t *kernel) {
    return [NSData dataWithBytes:kernel length:PIPELINE_KEY_BYTES];
}

static NSString *describe(const mfai_metal_kernel_t *kernel) {
    NSMutableString *text = [NSMutableString stringWithUTF8String:kernel->name];
    char value[16];
    for (int i = 0; i < MFAI_METAL_MACROS; ++i)
        if (mfai_metal_kernel_macro(kernel, i, value))
            [text appendFormat:@" %s=%s", mfai_metal_macro_name(i), value];
    for (int i = 0; i < MFA_CONSTANTS; ++i)
        [text appendFormat:@" %d=%u", i, kernel->constants[i]];
    return text;
}

/* ------------------------------------------------------------------ compiling */

/* By name, for SDKs and systems before macOS 15, which know fastMathEnabled only. */
static void demand_safe_math(MTLCompileOptions *options) {
    NSNumber *const safe = [NSNumber numberWithInteger:0];    /* MTLMathModeSafe */
    NSNumber *const precise = [NSNumber numberWithInteger:1]; /* MTLMathFloatingPointFunctionsPrecise */
    if ([options respondsToSelector:NSSelectorFromString(@"setMathMode:")]) {
        [options setValue:safe forKey:@"mathMode"];
        [options setValue:precise forKey:@"mathFloatingPointFunctions"];
    } else {
        [options setValue:[NSNumber numberWithBool:NO] forKey:@"fastMathEnabled"];
    }
}

static MTLCompileOptions *compile_options(const mfai_metal_kernel_t *kernel) {
    MTLCompileOptions *options = MFAI_AUTORELEASE([[MTLCompileOptions alloc] init]);
    [options setLanguageVersion:MTLLanguageVersion3_1];
    demand_safe_math(options);
    NSMutableDictionary *macros = [NSMutableDictionary dictionary];
    char value[16];
    for (int i = 0; i < MFAI_METAL_MACROS; ++i)
        if (mfai_metal_kernel_macro(kernel, i, value))
            [macros setObject:[NSString stringWithUTF8String:value]
                       forKey:[NSString stringWithUTF8String:mfai_metal_macro_name(i)]];
    [options setPreprocessorMacros:macros];
    return options;
}

static const char *source_text(const char *name) {
    for (const mfai_metal_source_t *source = mfai_metal_sources; source->name != NULL; ++source)
        if (strcmp(source->name, name) == 0)
            return source->text;
    return NULL;
}

static const char *message_of(NSError *error) {
    NSString *message = [error localizedDescription];
    return message != nil ? [message UTF8String] : "Metal does not say why";
}

static mfa_status_t fail(const char *what, const mfai_metal_kernel_t *kernel, NSError *error) {
    return mfai_fail(MFA_ERROR_KERNEL_COMPILATION, "%s of kernel %s failed: %s", what, [describe(kernel) UTF8String],
                     message_of(error));
}

static mfa_status_t find_library(mfai_metal_pipelines_t *pipelines, id<MTLDevice> gpu,
                                 const mfai_metal_kernel_t *kernel, id<MTLLibrary> *library) {
    NSData *key = library_key(kernel);
    *library = [pipelines->libraries objectForKey:key];
    if (*library != nil)
        return MFA_SUCCESS;
    const char *text = source_text(kernel->name);
    if (text == NULL)
        return mfai_fail(MFA_ERROR_KERNEL_COMPILATION, "this build of mfa has no kernel %s", kernel->name);
    NSError *error = nil;
    id<MTLLibrary> made = [gpu newLibraryWithSource:[NSString stringWithUTF8String:text]
                                            options:compile_options(kernel)
                                              error:&error];
    *library = MFAI_AUTORELEASE(made);
    if (*library == nil)
        return fail("compilation", kernel, error);
    [pipelines->libraries setObject:*library forKey:key];
    return MFA_SUCCESS;
}

static MTLFunctionConstantValues *constant_values(const mfai_metal_kernel_t *kernel) {
    MTLFunctionConstantValues *values = MFAI_AUTORELEASE([[MTLFunctionConstantValues alloc] init]);
    for (unsigned i = 0; i < MFA_CONSTANTS; ++i) {
        const uint32_t number = kernel->constants[i];
        const bool flag = number != 0;
        if (i == MFA_CONSTANT_ADDITIVE_MASK || i == MFA_CONSTANT_LISTS || i == MFA_CONSTANT_SCALES ||
            i == MFA_CONSTANT_KEY_CODES || i == MFA_CONSTANT_VALUE_CODES)
            [values setConstantValue:&number type:MTLDataTypeUInt atIndex:i];
        else
            [values setConstantValue:&flag type:MTLDataTypeBool atIndex:i];
    }
    return values;
}

static mfa_status_t specialise(mfai_metal_pipelines_t *pipelines, id<MTLDevice> gpu, const mfai_metal_kernel_t *kernel,
                               id<MTLFunction> *function) {
    id<MTLLibrary> library = nil;
    MFAI_TRY(find_library(pipelines, gpu, kernel, &library));
    NSError *error = nil;
    id<MTLFunction> made = [library newFunctionWithName:[NSString stringWithFormat:@"attention_%s", kernel->name]
                                         constantValues:constant_values(kernel)
                                                  error:&error];
    *function = MFAI_AUTORELEASE(made);
    return *function != nil ? MFA_SUCCESS : fail("specialisation", kernel, error);
}

static mfa_status_t make(mfai_metal_pipelines_t *pipelines, id<MTLDevice> gpu, const mfai_metal_kernel_t *kernel,
                         id<MTLComputePipelineState> __strong *pipeline) {
    id<MTLFunction> function = nil;
    MFAI_TRY(specialise(pipelines, gpu, kernel, &function));
    NSError *error = nil;
    id<MTLComputePipelineState> made = [gpu newComputePipelineStateWithFunction:function error:&error];
    *pipeline = MFAI_AUTORELEASE(made);
    return *pipeline != nil ? MFA_SUCCESS : fail("compilation for the device", kernel, error);
}

/* ------------------------------------------------------------------ the cache */

void mfai_metal_pipelines_open(mfai_metal_pipelines_t *pipelines) {
    pthread_mutex_init(&pipelines->lock, NULL);
    pipelines->libraries = [[NSMutableDictionary alloc] init];
    pipelines->pipelines = [[NSMutableDictionary alloc] init];
}

void mfai_metal_pipelines_close(mfai_metal_pipelines_t *pipelines) {
    MFAI_RELEASE(pipelines->pipelines);
    MFAI_RELEASE(pipelines->libraries);
    pthread_mutex_destroy(&pipelines->lock);
}

mfa_status_t mfai_metal_pipelines_specialise(mfai_metal_pipelines_t *pipelines, id<MTLDevice> gpu,
                                             const mfai_metal_kernel_t *kernel, id<MTLFunction> *function) {
    pthread_mutex_lock(&pipelines->lock);
    const mfa_status_t status = specialise(pipelines, gpu, kernel, function);
    pthread_mutex_unlock(&pipelines->lock);
    return status;
}

static mfa_status_t find(mfai_metal_pipelines_t *pipelines, id<MTLDevice> gpu, const mfai_metal_kernel_t *kernel,
                         id<MTLComputePipelineState> __strong *pipeline) {
    NSData *key = pipeline_key(kernel);
    *pipeline = [pipelines->pipelines objectForKey:key];
    if (*pipeline != nil)
        return MFA_SUCCESS;
    MFAI_TRY(make(pipelines, gpu, kernel, pipeline));
    [pipelines->pipelines setObject:*pipeline forKey:key];
    return MFA_SUCCESS;
}

static mfa_status_t check_limits(id<MTLDevice> gpu, id<MTLComputePipelineState> pipeline, const char *name,
                                 unsigned threads) {
    if ([pipeline threadExecutionWidth] != MFAI_METAL_SIMD_WIDTH)
        return mfai_fail(MFA_ERROR_UNSUPPORTED, "kernel %s needs simdgroups of %d threads, the device has %lu", name,
                         MFAI_METAL_SIMD_WIDTH, (unsigned long)[pipeline threadExecutionWidth]);
    if ([pipeline maxTotalThreadsPerThreadgroup] < threads)
        return mfai_fail(MFA_ERROR_UNSUPPORTED,
                         "kernel %s needs %u threads in a threadgroup, the device runs it with %lu", name, threads,
                         (unsigned long)[pipeline maxTotalThreadsPerThreadgroup]);
    const NSUInteger needed = [pipeline staticThreadgroupMemoryLength];
    if (needed > [gpu maxThreadgroupMemoryLength])
        return mfai_fail(MFA_ERROR_UNSUPPORTED, "kernel %s needs %lu bytes of threadgroup memory, the device has %lu",
                         name, (unsigned long)needed, (unsigned long)[gpu maxThreadgroupMemoryLength]);
    return MFA_SUCCESS;
}

mfa_status_t mfai_metal_pipelines_find(mfai_metal_pipelines_t *pipelines, id<MTLDevice> gpu,
                                       const mfai_metal_kernel_t *kernel, unsigned threads,
                                       id<MTLComputePipelineState> __strong *pipeline) {
    pthread_mutex_lock(&pipelines->lock);
    const mfa_status_t status = find(pipelines, gpu, kernel, pipeline);
    pthread_mutex_unlock(&pipelines->lock);
    MFAI_TRY(status);
    return check_limits(gpu, *pipeline, kernel->name, threads);
}
#endif
