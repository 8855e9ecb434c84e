#import "macos.h"

#include "settings.h"

static BOOL has_15(void) {
    static const char *const releases[] = {"15", "14"};
    return emu_setting_choice("METAL_EMULATOR_MACOS", releases, 2) == 0;
}

BOOL emu_macos_has_compile_option(SEL selector) {
    static NSString *const since_15[] = {@"mathMode", @"setMathMode:", @"mathFloatingPointFunctions",
                                         @"setMathFloatingPointFunctions:"};
    if (has_15())
        return YES;
    for (size_t i = 0; i < sizeof since_15 / sizeof since_15[0]; ++i) {
        if ([NSStringFromSelector(selector) isEqualToString:since_15[i]])
            return NO;
    }
    return YES;
}

MTLLanguageVersion emu_macos_language_version(void) { return has_15() ? MTLLanguageVersion3_2 : MTLLanguageVersion3_1; }
