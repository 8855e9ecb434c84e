#import <Metal/Metal.h>

#include "emulator.h"

@class EMUDevice;

@interface EMULibrary : NSObject <MTLLibrary> {
  @private
    EMUDevice *_device;
    emu_library *_library;
    NSString *_label;
    BOOL _usesMatrices;
}
/* Where the compiler only warned, there are a library and an error, as on Apple. */
- (instancetype)initWithDevice:(EMUDevice *)device
                        source:(NSString *)source
                       options:(MTLCompileOptions *)options
                         error:(NSError **)error;
- (const emu_library *)library;
- (BOOL)usesMatrices;
@end
