#import "data_type.h"

/* Metal numbers the vectors of 2, 3 and 4 right after their scalar. */
static const struct {
    MTLDataType scalar;
    emu_type type;
    NSUInteger size;
} scalars[] = {
    {MTLDataTypeBool, EMU_TYPE_BOOL, 1},     {MTLDataTypeChar, EMU_TYPE_CHAR, 1},
    {MTLDataTypeUChar, EMU_TYPE_UCHAR, 1},   {MTLDataTypeShort, EMU_TYPE_SHORT, 2},
    {MTLDataTypeUShort, EMU_TYPE_USHORT, 2}, {MTLDataTypeInt, EMU_TYPE_INT, 4},
    {MTLDataTypeUInt, EMU_TYPE_UINT, 4},     {MTLDataTypeLong, EMU_TYPE_LONG, 8},
    {MTLDataTypeULong, EMU_TYPE_ULONG, 8},   {MTLDataTypeHalf, EMU_TYPE_HALF, 2},
    {MTLDataTypeBFloat, EMU_TYPE_BFLOAT, 2}, {MTLDataTypeFloat, EMU_TYPE_FLOAT, 4},
};

enum { SCALARS = sizeof scalars / sizeof scalars[0] };

NSUInteger emu_data_type_size(MTLDataType type) {
    for (size_t i = 0; i < SCALARS; ++i) {
        if (type >= scalars[i].scalar && type <= scalars[i].scalar + 3) {
            const NSUInteger components = type - scalars[i].scalar + 1;
            return scalars[i].size * (components == 3 ? 4 : components);
        }
    }
    return 0;
}

emu_type emu_data_type_to_emulator(MTLDataType type) {
    for (size_t i = 0; i < SCALARS; ++i) {
        if (type == scalars[i].scalar)
            return scalars[i].type;
    }
    return EMU_TYPE_OTHER;
}

MTLDataType emu_data_type_from_emulator(emu_type type) {
    for (size_t i = 0; i < SCALARS; ++i) {
        if (type == scalars[i].type)
            return scalars[i].scalar;
    }
    return MTLDataTypeNone;
}
