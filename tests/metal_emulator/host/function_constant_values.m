#import "function_constant_values.h"

#import "data_type.h"
#import "errors.h"
#include "live.h"

/* One value, in a dictionary keyed by its index or its name. */
@interface EMUConstant : NSObject {
  @public
    emu_type _type;
    NSData *_bytes;
}
@end

@implementation EMUConstant
- (void)dealloc {
    [_bytes release];
    [super dealloc];
}
@end

static EMUConstant *constant(const void *value, MTLDataType type) {
    if (!value)
        emu_refuse(@"-[MTLFunctionConstantValues setConstantValue...]: the value is NULL");
    EMUConstant *made = [[[EMUConstant alloc] init] autorelease];
    made->_type = emu_data_type_to_emulator(type);
    if (made->_type == EMU_TYPE_OTHER)
        emu_refuse(@"-[MTLFunctionConstantValues setConstantValue...]: MTLDataType %lu is no scalar, and the emulator "
                   @"has no other function constants",
                   (unsigned long)type);
    made->_bytes = [[NSData alloc] initWithBytes:value length:emu_data_type_size(type)];
    return made;
}

@implementation MTLFunctionConstantValues

- (instancetype)init {
    if ((self = [super init])) {
        emu_live_born(EMU_LIVE_FUNCTION_CONSTANT_VALUES);
        _byIndex = [[NSMutableDictionary alloc] init];
        _byName = [[NSMutableDictionary alloc] init];
    }
    return self;
}

- (void)dealloc {
    emu_live_died(EMU_LIVE_FUNCTION_CONSTANT_VALUES);
    [_byIndex release];
    [_byName release];
    [super dealloc];
}

- (id)copyWithZone:(NSZone *)zone {
    MTLFunctionConstantValues *copy = [[[self class] allocWithZone:zone] init];
    [copy->_byIndex setDictionary:_byIndex];
    [copy->_byName setDictionary:_byName];
    return copy;
}

- (void)setConstantValue:(const void *)value type:(MTLDataType)type atIndex:(NSUInteger)index {
    if (index > UINT16_MAX)
        emu_refuse(@"-[MTLFunctionConstantValues setConstantValue:type:atIndex:]: index %lu is over 65535",
                   (unsigned long)index);
    [_byIndex setObject:constant(value, type) forKey:[NSNumber numberWithUnsignedLong:index]];
}

- (void)setConstantValues:(const void *)values type:(MTLDataType)type withRange:(NSRange)range {
    const NSUInteger size = emu_data_type_size(type);
    for (NSUInteger i = 0; i < range.length; ++i)
        [self setConstantValue:(const char *)values + i * size type:type atIndex:range.location + i];
}

- (void)setConstantValue:(const void *)value type:(MTLDataType)type withName:(NSString *)name {
    if (!name)
        emu_refuse(@"-[MTLFunctionConstantValues setConstantValue:type:withName:]: the name is nil");
    [_byName setObject:constant(value, type) forKey:name];
}

- (void)reset {
    [_byIndex removeAllObjects];
    [_byName removeAllObjects];
}

- (NSUInteger)emulatorCount {
    return [_byIndex count] + [_byName count];
}

- (void)emulatorGetValues:(emu_constant_value *)values {
    for (NSNumber *index in _byIndex) {
        EMUConstant *value = [_byIndex objectForKey:index];
        *values++ = (emu_constant_value){NULL, [index unsignedIntValue], value -> _type, [value->_bytes bytes]};
    }
    for (NSString *name in _byName) {
        EMUConstant *value = [_byName objectForKey:name];
        *values++ = (emu_constant_value){[name UTF8String], 0, value -> _type, [value->_bytes bytes]};
    }
}

@end
