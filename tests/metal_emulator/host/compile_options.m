#import "compile_options.h"

#include "live.h"
#include "macos.h"

@implementation MTLCompileOptions

- (instancetype)init {
    if ((self = [super init])) {
        emu_live_born(EMU_LIVE_COMPILE_OPTIONS);
        /* Apple documents relaxed as the default of its GPUs since macOS 15: what is right under fast is under both. */
        _mathMode = MTLMathModeFast;
        _mathFloatingPointFunctions = MTLMathFloatingPointFunctionsFast;
        _languageVersion = emu_macos_language_version();
    }
    return self;
}

- (void)dealloc {
    emu_live_died(EMU_LIVE_COMPILE_OPTIONS);
    [_preprocessorMacros release];
    [super dealloc];
}

- (id)copyWithZone:(NSZone *)zone {
    MTLCompileOptions *copy = [[[self class] allocWithZone:zone] init];
    copy->_preprocessorMacros = [_preprocessorMacros copy];
    copy->_mathMode = _mathMode;
    copy->_mathFloatingPointFunctions = _mathFloatingPointFunctions;
    copy->_languageVersion = _languageVersion;
    return copy;
}

@synthesize preprocessorMacros = _preprocessorMacros;
@synthesize languageVersion = _languageVersion;

/* As the compiler's -ffast-math and -fno-fast-math, this speaks for the functions too; mathMode does not. */
- (void)setFastMathEnabled:(BOOL)fastMathEnabled {
    _mathMode = fastMathEnabled ? MTLMathModeFast : MTLMathModeSafe;
    _mathFloatingPointFunctions =
        fastMathEnabled ? MTLMathFloatingPointFunctionsFast : MTLMathFloatingPointFunctionsPrecise;
}

- (BOOL)fastMathEnabled {
    return _mathMode != MTLMathModeSafe;
}

/* ------------------------------------------------------------------ since macOS 15 */

- (BOOL)respondsToSelector:(SEL)selector {
    return emu_macos_has_compile_option(selector) && [super respondsToSelector:selector];
}

+ (BOOL)instancesRespondToSelector:(SEL)selector {
    return emu_macos_has_compile_option(selector) && [super instancesRespondToSelector:selector];
}

- (void)refuseUnknown:(SEL)selector {
    if (!emu_macos_has_compile_option(selector))
        [self doesNotRecognizeSelector:selector];
}

- (MTLMathMode)mathMode {
    [self refuseUnknown:_cmd];
    return _mathMode;
}

- (void)setMathMode:(MTLMathMode)mathMode {
    [self refuseUnknown:_cmd];
    _mathMode = mathMode;
}

- (MTLMathFloatingPointFunctions)mathFloatingPointFunctions {
    [self refuseUnknown:_cmd];
    return _mathFloatingPointFunctions;
}

- (void)setMathFloatingPointFunctions:(MTLMathFloatingPointFunctions)mathFloatingPointFunctions {
    [self refuseUnknown:_cmd];
    _mathFloatingPointFunctions = mathFloatingPointFunctions;
}

/* ------------------------------------------------------------------ for libraries */

- (emu_math)math {
    static const emu_math modes[] = {
        [MTLMathModeSafe] = EMU_MATH_SAFE, [MTLMathModeRelaxed] = EMU_MATH_RELAXED, [MTLMathModeFast] = EMU_MATH_FAST};
    return modes[_mathMode];
}

- (BOOL)hasFastFunctions {
    return _mathFloatingPointFunctions == MTLMathFloatingPointFunctionsFast;
}

@end
