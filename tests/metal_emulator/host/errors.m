#include <stdlib.h>

#import "errors.h"
#include "log.h"

NSErrorDomain const MTLLibraryErrorDomain = @"MTLLibraryErrorDomain";
NSErrorDomain const MTLCommandBufferErrorDomain = @"MTLCommandBufferErrorDomain";
NSErrorDomain const EMUCompilerErrorDomain = @"AGXMetalEmulator";

NSError *emu_error(NSErrorDomain domain, NSInteger code, NSString *description) {
    return [NSError errorWithDomain:domain
                               code:code
                           userInfo:[NSDictionary dictionaryWithObject:description forKey:NSLocalizedDescriptionKey]];
}

void emu_report(NSError **where, NSErrorDomain domain, NSInteger code, NSString *description) {
    if (where)
        *where = emu_error(domain, code, description);
}

void emu_refuse(NSString *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    NSString *reason = [[[NSString alloc] initWithFormat:format arguments:arguments] autorelease];
    va_end(arguments);
    emu_log([[@"misuse: " stringByAppendingString:reason] UTF8String]);
    @throw [NSException exceptionWithName:NSInternalInconsistencyException reason:reason userInfo:nil];
}

NSString *emu_take_message(char *message) {
    NSString *text = message ? [NSString stringWithUTF8String:message] : nil;
    free(message);
    return text ? text : @"no message";
}
