#import "case.h"

static NSString *const specialised =
    @"#include <metal_stdlib>\n"
     "using namespace metal;\n"
     "constant uint factor [[function_constant(3)]];\n"
     "kernel void scale(device uint *values [[buffer(0)]], uint i [[thread_position_in_grid]]) {\n"
     "    values[i] = values[i] * factor + OFFSET;\n"
     "}\n";

static id<MTLLibrary> make_library(id<MTLDevice> device, NSError **error) {
    MTLCompileOptions *options = [[MTLCompileOptions alloc] init];
    [options setPreprocessorMacros:[NSDictionary dictionaryWithObject:[NSNumber numberWithInt:7] forKey:@"OFFSET"]];
    id<MTLLibrary> library = [device newLibraryWithSource:specialised options:options error:error];
    [options release];
    return library;
}

/* The first value of a buffer that held 5 before the pipeline ran. */
static uint32_t run_on_five(id<MTLComputePipelineState> pipeline) {
    uint32_t values[32] = {5};
    id<MTLDevice> device = [pipeline device];
    id<MTLCommandQueue> queue = [device newCommandQueue];
    id<MTLBuffer> buffer = [device newBufferWithBytes:values length:sizeof values options:0];
    id<MTLCommandBuffer> commandBuffer = [queue commandBuffer];
    id<MTLComputeCommandEncoder> encoder = [commandBuffer computeCommandEncoder];
    [encoder setComputePipelineState:pipeline];
    [encoder setBuffer:buffer offset:0 atIndex:0];
    [encoder dispatchThreadgroups:MTLSizeMake(1, 1, 1) threadsPerThreadgroup:MTLSizeMake(32, 1, 1)];
    [encoder endEncoding];
    finish(commandBuffer);
    CHECK([commandBuffer status] == MTLCommandBufferStatusCompleted);
    const uint32_t value = *(uint32_t *)[buffer contents];
    [buffer release];
    [queue release];
    return value;
}

CASE(library_specialises) {
    NSError *error = nil;
    id<MTLDevice> device = MTLCreateSystemDefaultDevice();
    id<MTLLibrary> library = make_library(device, &error);
    CHECK(library != nil && error == nil);
    CHECK([[library functionNames] isEqualToArray:[NSArray arrayWithObject:@"scale"]]);
    MTLFunctionConstantValues *values = [[MTLFunctionConstantValues alloc] init];
    const uint32_t factors[] = {2, 10};
    [values setConstantValue:&factors[0] type:MTLDataTypeUInt atIndex:3];
    id<MTLFunction> function = [library newFunctionWithName:@"scale" constantValues:values error:&error];
    CHECK(function != nil && [function functionType] == MTLFunctionTypeKernel);
    CHECK([[function name] isEqualToString:@"scale"]);
    MTLFunctionConstant *constant = [[function functionConstantsDictionary] objectForKey:@"factor"];
    CHECK([constant index] == 3 && [constant type] == MTLDataTypeUInt && [constant required]);
    id<MTLComputePipelineState> pipeline = [device newComputePipelineStateWithFunction:function error:&error];
    CHECK(run_on_five(pipeline) == 5 * 2 + 7);
    [pipeline release];
    [function release];

    MTLFunctionConstantValues *named = [values copy];
    [named setConstantValue:&factors[0] type:MTLDataTypeUInt withName:@"factor"];
    [named reset];
    CHECK([library newFunctionWithName:@"scale" constantValues:named error:NULL] == nil);
    [named setConstantValue:&factors[1] type:MTLDataTypeUInt withName:@"factor"];
    function = [library newFunctionWithName:@"scale" constantValues:named error:&error];
    [library release];
    pipeline = [device newComputePipelineStateWithFunction:function error:&error];
    CHECK(run_on_five(pipeline) == 5 * 10 + 7);
    [pipeline release];
    [function release];
    [values release];
    [named release];
    [device release];
}

CASE(library_errors) {
    NSError *error = nil;
    id<MTLDevice> device = MTLCreateSystemDefaultDevice();
    CHECK([device newLibraryWithSource:@"kernel void broken( { syntax error" options:nil error:&error] == nil);
    CHECK_ERROR(error, MTLLibraryErrorDomain, MTLLibraryErrorCompileFailure, @"error:");
    CHECK([device newLibraryWithSource:@"kernel void broken( { syntax error" options:nil error:NULL] == nil);
    CHECK_RAISES([device newLibraryWithSource:(id _Nonnull)nil options:nil error:NULL], @"nil");

    id<MTLLibrary> library = make_library(device, &error);
    MTLFunctionConstantValues *none = [[MTLFunctionConstantValues alloc] init];
    CHECK([library newFunctionWithName:@"scale" constantValues:none error:&error] == nil);
    CHECK_ERROR(error, MTLLibraryErrorDomain, MTLLibraryErrorCompileFailure, @"factor");
    CHECK([library newFunctionWithName:@"shrink" constantValues:none error:&error] == nil);
    CHECK_ERROR(error, MTLLibraryErrorDomain, MTLLibraryErrorFunctionNotFound, @"shrink");
    CHECK([library newFunctionWithName:@"shrink"] == nil);

    id<MTLFunction> function = [library newFunctionWithName:@"scale"];
    error = nil;
    CHECK([device newComputePipelineStateWithFunction:function error:&error] == nil);
    CHECK([[error localizedDescription] rangeOfString:@"factor"].location != NSNotFound);
    CHECK_RAISES([device newComputePipelineStateWithFunction:(id _Nonnull)nil error:NULL], @"nil");
    [function release];
    [none release];
    [library release];
    [device release];
}

/* A warning comes with a library and an error, so that only the library tells success. */
CASE(library_warnings) {
    NSError *error = nil;
    id<MTLDevice> device = MTLCreateSystemDefaultDevice();
    id<MTLLibrary> library = [device newLibraryWithSource:@"#warning unused\nkernel void nothing() {}\n"
                                                  options:nil
                                                    error:&error];
    CHECK(library != nil);
    CHECK_ERROR(error, MTLLibraryErrorDomain, MTLLibraryErrorCompileWarning, @"unused");
    [library release];
    [device release];
}

CASE(compile_options) {
    MTLCompileOptions *options = [[MTLCompileOptions alloc] init];
    CHECK([options fastMathEnabled] && [options mathMode] == MTLMathModeFast);
    CHECK([options mathFloatingPointFunctions] == MTLMathFloatingPointFunctionsFast);
    [options setMathMode:MTLMathModeSafe];
    CHECK(![options fastMathEnabled]);
    CHECK([options mathFloatingPointFunctions] == MTLMathFloatingPointFunctionsFast);
    options.fastMathEnabled = NO;
    CHECK([options mathFloatingPointFunctions] == MTLMathFloatingPointFunctionsPrecise);
    MTLCompileOptions *copy = [options copy];
    CHECK([copy mathMode] == MTLMathModeSafe && [copy languageVersion] == [options languageVersion]);
    [copy release];

    NSError *error = nil;
    id<MTLDevice> device = MTLCreateSystemDefaultDevice();
    [options setLanguageVersion:MTLLanguageVersion4_0];
    CHECK([device newLibraryWithSource:@"kernel void nothing() {}" options:options error:&error] == nil);
    CHECK_ERROR(error, MTLLibraryErrorDomain, MTLLibraryErrorUnsupported, @"newer");
    [options release];
    [device release];
}

/* Under METAL_EMULATOR_MACOS=14. */
CASE(compile_options_before_macos_15) {
    MTLCompileOptions *options = [[MTLCompileOptions alloc] init];
    CHECK(![options respondsToSelector:@selector(setMathMode:)]);
    CHECK(![MTLCompileOptions instancesRespondToSelector:@selector(mathMode)]);
    CHECK([options respondsToSelector:@selector(setFastMathEnabled:)]);
    CHECK_RAISES([options setMathMode:MTLMathModeSafe], @"setMathMode:");
    CHECK([options languageVersion] == MTLLanguageVersion3_1);
    [options release];
}

CASE(pipeline_limits) {
    rig r = rig_make();
    CHECK([r.add threadExecutionWidth] == 32 && [r.add maxTotalThreadsPerThreadgroup] == 1024);
    CHECK([r.add staticThreadgroupMemoryLength] == 0 && [r.add device] == r.device);
    MTLComputePipelineDescriptor *descriptor = [[MTLComputePipelineDescriptor alloc] init];
    id<MTLFunction> function = [r.library newFunctionWithName:@"add"];
    [descriptor setComputeFunction:function];
    [descriptor setMaxTotalThreadsPerThreadgroup:256];
    [descriptor setLabel:@"small"];
    id<MTLComputePipelineState> small = [r.device newComputePipelineStateWithDescriptor:descriptor
                                                                                options:MTLPipelineOptionNone
                                                                             reflection:NULL
                                                                                  error:NULL];
    CHECK([small maxTotalThreadsPerThreadgroup] == 256 && [[small label] isEqualToString:@"small"]);
    [small release];
    [function release];
    [descriptor release];
    rig_free(&r);
}

/* Under METAL_EMULATOR_MAX_THREADS=448. */
CASE(pipeline_with_fewer_threads) {
    rig r = rig_make();
    CHECK([r.add maxTotalThreadsPerThreadgroup] == 448);
    rig_free(&r);
}

/* Under METAL_EMULATOR_GPU=paravirtual. */
CASE(pipeline_without_simdgroup_matrix) {
    NSString *source = @"#include <metal_stdlib>\n"
                        "#include <metal_simdgroup_matrix>\n"
                        "using namespace metal;\n"
                        "kernel void square(device float *values [[buffer(0)]]) {\n"
                        "    simdgroup_float8x8 m;\n"
                        "    simdgroup_load(m, values, 8);\n"
                        "    simdgroup_multiply(m, m, m);\n"
                        "    simdgroup_store(m, values, 8);\n"
                        "}\n";
    NSError *error = nil;
    id<MTLDevice> device = MTLCreateSystemDefaultDevice();
    id<MTLLibrary> library = [device newLibraryWithSource:source options:nil error:&error];
    CHECK(library != nil);
    id<MTLFunction> function = [library newFunctionWithName:@"square"];
    CHECK([device newComputePipelineStateWithFunction:function error:&error] == nil);
    CHECK([[error localizedDescription] rangeOfString:@"simdgroup_matrix"].location != NSNotFound);
    [function release];
    [library release];
    [device release];
}
