#import "function.h"

#include <stdlib.h>

#import "data_type.h"
#import "errors.h"
#import "function_constant_values.h"
#import "library.h"
#include "live.h"

@interface MTLFunctionConstant (Emulator)
- (instancetype)initWithEmulatorConstant:(const emu_function_constant *)constant;
@end

@implementation MTLFunctionConstant

- (instancetype)initWithEmulatorConstant:(const emu_function_constant *)constant {
    if ((self = [super init])) {
        _name = [[NSString alloc] initWithUTF8String:constant->name];
        _type = emu_data_type_from_emulator(constant->type);
        _index = constant->index;
        _required = constant->required;
    }
    return self;
}

- (void)dealloc {
    [_name release];
    [super dealloc];
}

@synthesize name = _name;
@synthesize type = _type;
@synthesize index = _index;
@synthesize required = _required;

@end

@implementation EMUSpecialisation

- (instancetype)initWithLibrary:(const emu_library *)library
                           name:(NSString *)name
                         values:(MTLFunctionConstantValues *)values
                        message:(NSString **)message {
    if (!(self = [super init]))
        return nil;
    const NSUInteger count = [values emulatorCount];
    emu_constant_value *constants = calloc(count + 1, sizeof *constants);
    char *error = NULL;
    if (constants) {
        [values emulatorGetValues:constants];
        _pipeline = emu_pipeline_create(library, [name UTF8String], constants, count, &error);
    }
    free(constants);
    if (!_pipeline) {
        *message = emu_take_message(error);
        [self release];
        return nil;
    }
    free(error);
    return self;
}

- (void)dealloc {
    if (_pipeline)
        emu_pipeline_destroy(_pipeline);
    [super dealloc];
}

- (const emu_pipeline *)pipeline {
    return _pipeline;
}

@end

@implementation EMUFunction

- (instancetype)initWithLibrary:(EMULibrary *)library
                           name:(NSString *)name
                         values:(MTLFunctionConstantValues *)values
                          error:(NSError **)error {
    if (!(self = [super init]))
        return nil;
    emu_live_born(EMU_LIVE_FUNCTION);
    _library = [library retain];
    _name = [name copy];
    if (!emu_library_find_kernel([library library], [name UTF8String])) {
        emu_report(error, MTLLibraryErrorDomain, MTLLibraryErrorFunctionNotFound,
                   [NSString stringWithFormat:@"the library has no function '%@'", name]);
        [self release];
        return nil;
    }
    if (values) {
        NSString *message;
        _specialisation = [[EMUSpecialisation alloc] initWithLibrary:[library library]
                                                                name:name
                                                              values:values
                                                             message:&message];
        if (!_specialisation) {
            emu_report(error, MTLLibraryErrorDomain, MTLLibraryErrorCompileFailure, message);
            [self release];
            return nil;
        }
    }
    return self;
}

- (void)dealloc {
    emu_live_died(EMU_LIVE_FUNCTION);
    [_specialisation release];
    [_library release];
    [_name release];
    [_label release];
    [super dealloc];
}

@synthesize name = _name;
@synthesize label = _label;

- (EMUSpecialisation *)specialisationWithMessage:(NSString **)message {
    if (_specialisation)
        return _specialisation;
    return [[[EMUSpecialisation alloc] initWithLibrary:[_library library] name:_name values:nil
                                               message:message] autorelease];
}

- (BOOL)usesMatrices {
    return [_library usesMatrices];
}

- (id<MTLDevice>)device {
    return [_library device];
}

- (MTLFunctionType)functionType {
    return MTLFunctionTypeKernel;
}

- (NSDictionary<NSString *, MTLFunctionConstant *> *)functionConstantsDictionary {
    NSMutableDictionary *constants = [NSMutableDictionary dictionary];
    const emu_library *library = [_library library];
    for (size_t i = 0; i < emu_library_constant_count(library); ++i) {
        MTLFunctionConstant *constant =
            [[MTLFunctionConstant alloc] initWithEmulatorConstant:emu_library_constant(library, i)];
        [constants setObject:constant forKey:[constant name]];
        [constant release];
    }
    return constants;
}

@end
