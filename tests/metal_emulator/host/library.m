#import "library.h"

#include <stdlib.h>

#import "compile_options.h"
#import "device.h"
#import "errors.h"
#import "function.h"
#import "macos.h"
#include "calls.h"
#include "live.h"
#include "settings.h"

static NSString *macro_value(NSObject *value) {
    if ([value isKindOfClass:[NSString class]])
        return (NSString *)value;
    if ([value isKindOfClass:[NSNumber class]])
        return [(NSNumber *)value stringValue];
    emu_refuse(@"-[MTLCompileOptions preprocessorMacros]: a value is neither NSString nor NSNumber");
}

static emu_library *compile(NSString *source, MTLCompileOptions *options, char **message) {
    static const char *const modes[] = {"fast", "checked"};
    NSDictionary *definitions = [options preprocessorMacros];
    emu_macro *macros = calloc([definitions count] + 1, sizeof *macros);
    if (!macros)
        return NULL;
    size_t count = 0;
    @try {
        for (NSString *name in definitions)
            macros[count++] = (emu_macro){[name UTF8String], [macro_value([definitions objectForKey:name]) UTF8String]};
        const emu_compile_options wanted = {
            .macros = macros,
            .macro_count = count,
            .language_version = (uint32_t)[options languageVersion],
            .math = [options math],
            .fast_functions = [options hasFastFunctions],
            .mode = emu_setting_choice("METAL_EMULATOR_MODE", modes, 2) ? EMU_MODE_CHECKED : EMU_MODE_FAST,
        };
        const char *text = [source UTF8String];
        return emu_library_create(text, strlen(text), &wanted, message);
    } @finally {
        free(macros);
    }
}

@implementation EMULibrary

- (instancetype)initWithDevice:(EMUDevice *)device
                        source:(NSString *)source
                       options:(MTLCompileOptions *)options
                         error:(NSError **)error {
    if (!(self = [super init]))
        return nil;
    emu_live_born(EMU_LIVE_LIBRARY);
    _device = [device retain];
    options = options ? options : [[[MTLCompileOptions alloc] init] autorelease];
    if ([options languageVersion] > emu_macos_language_version()) {
        emu_report(error, MTLLibraryErrorDomain, MTLLibraryErrorUnsupported,
                   @"this language version is newer than the system");
        [self release];
        return nil;
    }
    char *message = NULL;
    _library = compile(source, options, &message);
    if (!_library) {
        emu_report(error, MTLLibraryErrorDomain, MTLLibraryErrorCompileFailure, emu_take_message(message));
        [self release];
        return nil;
    }
    if (message)
        emu_report(error, MTLLibraryErrorDomain, MTLLibraryErrorCompileWarning, emu_take_message(message));
    for (NSString *type in
         @[ @"simdgroup_matrix", @"simdgroup_float8x8", @"simdgroup_half8x8", @"simdgroup_bfloat8x8" ])
        _usesMatrices = _usesMatrices || [source rangeOfString:type].location != NSNotFound;
    return self;
}

- (void)dealloc {
    emu_live_died(EMU_LIVE_LIBRARY);
    if (_library)
        emu_library_destroy(_library);
    [_device release];
    [_label release];
    [super dealloc];
}

@synthesize label = _label;

- (const emu_library *)library {
    return _library;
}

- (BOOL)usesMatrices {
    return _usesMatrices;
}

- (id<MTLDevice>)device {
    return _device;
}

- (NSArray<NSString *> *)functionNames {
    NSMutableArray *names = [NSMutableArray array];
    for (size_t i = 0; i < emu_library_kernel_count(_library); ++i)
        [names addObject:[NSString stringWithUTF8String:emu_library_kernel(_library, i)->name]];
    return names;
}

- (id<MTLFunction>)newFunctionWithName:(NSString *)functionName {
    if (!functionName)
        emu_refuse(@"-[MTLLibrary newFunctionWithName:]: the name is nil");
    if (emu_calls_fails(EMU_CALL_FUNCTION))
        return nil;
    return [[EMUFunction alloc] initWithLibrary:self name:functionName values:nil error:NULL];
}

- (id<MTLFunction>)newFunctionWithName:(NSString *)name
                        constantValues:(MTLFunctionConstantValues *)constantValues
                                 error:(NSError **)error {
    if (!name || !constantValues)
        emu_refuse(@"-[MTLLibrary newFunctionWithName:constantValues:error:]: the name or the values are nil");
    if (emu_calls_fails(EMU_CALL_FUNCTION)) {
        emu_report(error, MTLLibraryErrorDomain, MTLLibraryErrorInternal, @EMU_INJECTED);
        return nil;
    }
    return [[EMUFunction alloc] initWithLibrary:self name:name values:constantValues error:error];
}

@end
