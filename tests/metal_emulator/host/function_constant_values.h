#import <Metal/MTLFunctionConstantValues.h>

#include "emulator.h"

@interface MTLFunctionConstantValues (Emulator)
/* For emu_pipeline_create: `values` has room for -emulatorCount, and lives as long as the receiver. */
- (NSUInteger)emulatorCount;
- (void)emulatorGetValues:(emu_constant_value *)values;
@end
