/* What depends on the release of macOS that METAL_EMULATOR_MACOS names. */
#import <Metal/MTLLibrary.h>

BOOL emu_macos_has_compile_option(SEL selector);

/* The newest that its run-time compiler knows. */
MTLLanguageVersion emu_macos_language_version(void);
