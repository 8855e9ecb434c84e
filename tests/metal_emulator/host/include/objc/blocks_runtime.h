/* GNUstep's Foundation asks for this where the compiler has blocks; GCC's Objective-C runtime does not come with it. */
#pragma once

#include <Block.h>
