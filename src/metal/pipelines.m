#import "metal/pipelines.h"

#include <string.h>

#include "metal/sources.h"

/* ------------------------------------------------------------------ keys */

static NSString *library_key(const mfai_metal_kernel_t *kernel) {
    NSMutableString *key = [NSMutableString stringWithUTF8String:kernel->name];
    for (int i = 0; i < kernel->macro_count; ++i)
        [key appendFormat:@" %s=%s", kernel->macros[i].name, kernel->macros[i].value];
    return key;
}

static NSString *pipeline_key(const mfai_metal_kernel_t *kernel) {
    NSMutableString *key = [NSMutableString stringWithFormat:@"%@:", library_key(kernel)];
    for (int i = 0; i < kernel->constant_count; ++i)
        [key appendFormat:@" %u=%u", kernel->constants[i].index, kernel->constants[i].value];
    return key;
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
    MTLCompileOptions *options = [[[MTLCompileOptions alloc] init] autorelease];
    [options setLanguageVersion:MTLLanguageVersion3_1];
    demand_safe_math(options);
    NSMutableDictionary *macros = [NSMutableDictionary dictionary];
    for (int i = 0; i < kernel->macro_count; ++i)
        [macros setObject:[NSString stringWithUTF8String:kernel->macros[i].value]
                   forKey:[NSString stringWithUTF8String:kernel->macros[i].name]];
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
    return mfai_fail(MFA_ERROR_KERNEL_COMPILATION, "%s of kernel %s failed: %s", what,
                     [pipeline_key(kernel) UTF8String], message_of(error));
}

static mfa_status_t find_library(mfai_metal_pipelines_t *pipelines, id<MTLDevice> gpu,
                                 const mfai_metal_kernel_t *kernel, id<MTLLibrary> *library) {
    NSString *key = library_key(kernel);
    *library = [pipelines->libraries objectForKey:key];
    if (*library != nil)
        return MFA_SUCCESS;
    const char *text = source_text(kernel->name);
    if (text == NULL)
        return mfai_fail(MFA_ERROR_KERNEL_COMPILATION, "this build of mfa has no kernel %s", kernel->name);
    NSError *error = nil;
    *library = [[gpu newLibraryWithSource:[NSString stringWithUTF8String:text]
                                  options:compile_options(kernel)
                                    error:&error] autorelease];
    if (*library == nil)
        return fail("compilation", kernel, error);
    [pipelines->libraries setObject:*library forKey:key];
    return MFA_SUCCESS;
}

static MTLFunctionConstantValues *constant_values(const mfai_metal_kernel_t *kernel) {
    MTLFunctionConstantValues *values = [[[MTLFunctionConstantValues alloc] init] autorelease];
    for (int i = 0; i < kernel->constant_count; ++i) {
        const mfai_metal_constant_t *constant = &kernel->constants[i];
        const uint32_t number = constant->value;
        const bool flag = constant->value != 0;
        if (constant->is_flag)
            [values setConstantValue:&flag type:MTLDataTypeBool atIndex:constant->index];
        else
            [values setConstantValue:&number type:MTLDataTypeUInt atIndex:constant->index];
    }
    return values;
}

static mfa_status_t specialise(mfai_metal_pipelines_t *pipelines, id<MTLDevice> gpu, const mfai_metal_kernel_t *kernel,
                               id<MTLFunction> *function) {
    id<MTLLibrary> library = nil;
    MFA_TRY(find_library(pipelines, gpu, kernel, &library));
    NSError *error = nil;
    *function = [[library newFunctionWithName:[NSString stringWithFormat:@"attention_%s", kernel->name]
                               constantValues:constant_values(kernel)
                                        error:&error] autorelease];
    return *function != nil ? MFA_SUCCESS : fail("specialisation", kernel, error);
}

static mfa_status_t make(mfai_metal_pipelines_t *pipelines, id<MTLDevice> gpu, const mfai_metal_kernel_t *kernel,
                         id<MTLComputePipelineState> *pipeline) {
    id<MTLFunction> function = nil;
    MFA_TRY(specialise(pipelines, gpu, kernel, &function));
    NSError *error = nil;
    *pipeline = [[gpu newComputePipelineStateWithFunction:function error:&error] autorelease];
    return *pipeline != nil ? MFA_SUCCESS : fail("compilation for the device", kernel, error);
}

/* ------------------------------------------------------------------ the cache */

void mfai_metal_pipelines_open(mfai_metal_pipelines_t *pipelines) {
    pthread_mutex_init(&pipelines->lock, NULL);
    pipelines->libraries = [[NSMutableDictionary alloc] init];
    pipelines->pipelines = [[NSMutableDictionary alloc] init];
}

void mfai_metal_pipelines_close(mfai_metal_pipelines_t *pipelines) {
    [pipelines->pipelines release];
    [pipelines->libraries release];
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
                         id<MTLComputePipelineState> *pipeline) {
    NSString *key = pipeline_key(kernel);
    *pipeline = [pipelines->pipelines objectForKey:key];
    if (*pipeline != nil)
        return MFA_SUCCESS;
    MFA_TRY(make(pipelines, gpu, kernel, pipeline));
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
                                       id<MTLComputePipelineState> *pipeline) {
    pthread_mutex_lock(&pipelines->lock);
    const mfa_status_t status = find(pipelines, gpu, kernel, pipeline);
    pthread_mutex_unlock(&pipelines->lock);
    MFA_TRY(status);
    return check_limits(gpu, *pipeline, kernel->name, threads);
}
