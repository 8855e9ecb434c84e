#import <Metal/MTLDataType.h>

#include "emulator.h"

/* Bytes of a scalar or vector as Metal lays it out; 0 for MTLDataTypeNone and unknown values. */
NSUInteger emu_data_type_size(MTLDataType type);

/* EMU_TYPE_OTHER for vectors: the emulator's function constants are scalars. */
emu_type emu_data_type_to_emulator(MTLDataType type);
MTLDataType emu_data_type_from_emulator(emu_type type);
