#import "pass.h"

#import "buffer.h"
#import "dispatch.h"
#include "launch_settings.h"

@implementation EMUPass

- (instancetype)initWithType:(MTLDispatchType)type {
    if ((self = [super init])) {
        _type = type;
        _steps = [[NSMutableArray alloc] init];
    }
    return self;
}

- (void)dealloc {
    [_steps release];
    [super dealloc];
}

- (MTLDispatchType)type {
    return _type;
}

- (void)addDispatch:(EMUDispatch *)dispatch {
    [_steps addObject:dispatch];
}

- (void)addBarrier {
    [_steps addObject:[NSNull null]];
}

- (void)addBarrierOf:(NSArray *)memories {
    [_steps addObject:memories];
}

static BOOL orders(id barrier, EMUDispatch *before, EMUDispatch *after) {
    if (barrier == [NSNull null])
        return YES;
    for (EMUMemory *memory in (NSArray *)barrier) {
        if ([before uses:memory] && [after uses:memory])
            return YES;
    }
    return NO;
}

- (BOOL)step:(NSUInteger)first mustPrecede:(NSUInteger)second {
    if (_type == MTLDispatchTypeSerial)
        return YES;
    for (NSUInteger i = first + 1; i < second; ++i) {
        id barrier = [_steps objectAtIndex:i];
        if (![barrier isKindOfClass:[EMUDispatch class]] &&
            orders(barrier, [_steps objectAtIndex:first], [_steps objectAtIndex:second]))
            return YES;
    }
    return NO;
}

/* Positions in _steps of the dispatches left that none of the others left must precede. */
- (NSArray *)readyOf:(NSArray *)left {
    NSMutableArray *ready = [NSMutableArray array];
    for (NSUInteger i = 0; i < [left count]; ++i) {
        BOOL free = YES;
        for (NSUInteger j = 0; j < i && free; ++j)
            free = ![self step:[[left objectAtIndex:j] unsignedIntegerValue]
                   mustPrecede:[[left objectAtIndex:i] unsignedIntegerValue]];
        if (free)
            [ready addObject:[left objectAtIndex:i]];
    }
    return ready;
}

static NSNumber *choose(NSArray *ready, uint64_t *random) {
    switch (emu_launch_settings_order()) {
    case EMU_ORDER_FIFO:
        return [ready objectAtIndex:0];
    case EMU_ORDER_REVERSE:
    case EMU_ORDER_LIFO:
        return [ready lastObject];
    case EMU_ORDER_RANDOM:
        *random = *random * 6364136223846793005u + 1442695040888963407u;
        return [ready objectAtIndex:(*random >> 33) % [ready count]];
    }
    return nil;
}

- (NSError *)execute {
    NSMutableArray *left = [NSMutableArray array];
    for (NSUInteger i = 0; i < [_steps count]; ++i) {
        if ([[_steps objectAtIndex:i] isKindOfClass:[EMUDispatch class]])
            [left addObject:[NSNumber numberWithUnsignedInteger:i]];
    }
    uint64_t random = emu_launch_settings_seed();
    while ([left count] > 0) {
        NSNumber *next = _type == MTLDispatchTypeSerial ? [left objectAtIndex:0] : choose([self readyOf:left], &random);
        NSError *error = [[_steps objectAtIndex:[next unsignedIntegerValue]] execute];
        if (error)
            return error;
        [left removeObject:next];
    }
    return nil;
}

@end
