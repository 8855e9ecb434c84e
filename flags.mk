# What C and Objective-C are compiled with. Makefile includes it; setup.py and tests/support/flags.py read its lines, NAME := WORDS.

RELEASE := -O3
# Modules between Python and the library: -O3 makes them larger, and calls no faster.
MODULES := -O2
# Kernels without inlining would take hours over the suite, hence not -O0.
DEBUG := -O1 -g3 -fno-omit-frame-pointer
FUZZ := -O1 -gline-tables-only -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all
COVERAGE := -O1 -g --coverage

# Canaries, and copies checked where their size is known; with ELF, nothing that is relocated stays writable and no stack runs.
HARDENING := -fstack-protector-strong -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2
ELF_HARDENING := -Wl,-z,relro -Wl,-z,now -Wl,-z,noexecstack

CORE_FLAGS := -std=gnu11 -fPIC -fvisibility=hidden -pthread
WARNINGS := -Wall -Wextra
INCLUDES := -Iinclude -Isrc -Imetal

# Nothing newer than the deployment target is called before src/metal/device.m has asked for macOS 14.
OBJC_FLAGS := -fno-objc-arc -Wno-unguarded-availability-new
METAL_FRAMEWORKS := -framework Metal -framework Foundation -framework CoreGraphics
