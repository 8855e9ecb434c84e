#import <Foundation/Foundation.h>

#include <stdlib.h>
#include <string.h>

#include "settings.h"

static const char *value_of(const char *variable) {
    const char *value = getenv(variable);
    return value && *value ? value : NULL;
}

size_t emu_setting_choice(const char *variable, const char *const *names, size_t count) {
    const char *value = value_of(variable);
    if (!value)
        return 0;
    for (size_t i = 0; i < count; ++i) {
        if (strcmp(value, names[i]) == 0)
            return i;
    }
    [NSException raise:NSInvalidArgumentException
                format:@"%s is '%s', which the emulator does not know", variable, value];
    return 0;
}

uint64_t emu_setting_number(const char *variable, uint64_t otherwise) {
    const char *value = value_of(variable);
    if (!value)
        return otherwise;
    char *end;
    const uint64_t number = strtoull(value, &end, 10);
    if (*end)
        [NSException raise:NSInvalidArgumentException format:@"%s is '%s', expected a number", variable, value];
    return number;
}
