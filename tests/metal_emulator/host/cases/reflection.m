/* Prints the type encodings of what the emulator declares, for comparison with api.csv: `OWNER SELECTOR ENCODING`. */
#import <Metal/Metal.h>

#include <objc/runtime.h>
#include <stdio.h>

static void print_protocol(Protocol *protocol) {
    unsigned count = 0;
    struct objc_method_description *methods = protocol_copyMethodDescriptionList(protocol, YES, YES, &count);
    for (unsigned i = 0; i < count; ++i)
        printf("%s %s %s\n", protocol_getName(protocol), sel_getName(methods[i].name), methods[i].types);
    free(methods);
}

static void print_class(Class class) {
    unsigned count = 0;
    Method *methods = class_copyMethodList(class, &count);
    for (unsigned i = 0; i < count; ++i)
        printf("%s %s %s\n", class_getName(class), sel_getName(method_getName(methods[i])),
               method_getTypeEncoding(methods[i]));
    free(methods);
}

int main(void) {
    static const char *const protocols[] = {
        "MTLAllocation",           "MTLResource", "MTLBuffer", "MTLCommandQueue",          "MTLCommandBuffer",
        "MTLCommandEncoder",       "MTLLibrary",  "MTLDevice", "MTLComputeCommandEncoder", "MTLFunction",
        "MTLComputePipelineState",
    };
    for (size_t i = 0; i < sizeof protocols / sizeof protocols[0]; ++i)
        print_protocol(objc_getProtocol(protocols[i]));
    print_class([MTLCommandBufferDescriptor class]);
    print_class([MTLCompileOptions class]);
    print_class([MTLComputePipelineDescriptor class]);
    print_class([MTLFunctionConstant class]);
    print_class([MTLFunctionConstantValues class]);
    return 0;
}
