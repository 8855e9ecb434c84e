/* NSErrors, and what becomes of a caller's mistakes. A mistake made while encoding fails the command buffer, whose
   error tells it; one that no command buffer can carry raises an exception where Metal would assert. All are logged. */
#import <Metal/Metal.h>

NSError *emu_error(NSErrorDomain domain, NSInteger code, NSString *description);

/* Stores an error where the caller asked for one. */
void emu_report(NSError **where, NSErrorDomain domain, NSInteger code, NSString *description);

void emu_refuse(NSString *format, ...) NS_FORMAT_FUNCTION(1, 2) __attribute__((noreturn));

/* Of pipelines, where Metal passes on the error of the GPU's compiler. */
extern NSErrorDomain const EMUCompilerErrorDomain;
enum { EMU_COMPILER_ERROR = 3 };

/* Takes over a message that emulator.h allocated. */
NSString *emu_take_message(char *message);
