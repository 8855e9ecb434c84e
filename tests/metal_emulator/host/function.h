#import <Metal/Metal.h>

#include "emulator.h"

@class EMULibrary;

/* A compiled specialisation, shared by the function and the pipelines made from it. */
@interface EMUSpecialisation : NSObject {
  @private
    emu_pipeline *_pipeline;
}
- (instancetype)initWithLibrary:(const emu_library *)library
                           name:(NSString *)name
                         values:(MTLFunctionConstantValues *)values
                        message:(NSString **)message;
- (const emu_pipeline *)pipeline;
@end

@interface EMUFunction : NSObject <MTLFunction> {
  @private
    EMULibrary *_library;
    NSString *_name, *_label;
    EMUSpecialisation *_specialisation;
}
/* Specialises at once if there are values, as Metal does; without values the pipeline does it. */
- (instancetype)initWithLibrary:(EMULibrary *)library
                           name:(NSString *)name
                         values:(MTLFunctionConstantValues *)values
                          error:(NSError **)error;
- (EMUSpecialisation *)specialisationWithMessage:(NSString **)message;
- (BOOL)usesMatrices;
@end
