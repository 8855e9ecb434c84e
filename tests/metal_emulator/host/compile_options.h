// What compile options mean, whichever release of macOS is emulated and whichever of the setters said it.
#import <Metal/Metal.h>

#include "emulator.h"

@interface MTLCompileOptions (EMUMath)
- (emu_math)math;
- (BOOL)hasFastFunctions;
@end
