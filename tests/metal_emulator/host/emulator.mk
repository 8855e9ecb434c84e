# The emulated Metal device, libMetal.so: Objective-C objects (host/) over the runtime that runs the kernels (runtime/).
# To be included, or used by itself from the repository's root: make -f tests/metal_emulator/host/emulator.mk
# What uses it is compiled with METAL_OBJCFLAGS and linked with METAL_LIBS, before any other library of Objective-C.

include flags.mk

METAL_EMULATOR ?= tests/metal_emulator
METAL_EMULATOR_OUT ?= build/metal-emulator
METAL_EMULATOR_CLANG ?= clang-19
METAL_EMULATOR_LIBRARY := $(METAL_EMULATOR_OUT)/libMetal.so

metal_gcc_include := $(shell gcc -print-file-name=include)
METAL_OBJCFLAGS = -fobjc-runtime=gcc -fblocks -fexceptions -fobjc-exceptions -D_NATIVE_OBJC_EXCEPTIONS \
    -fconstant-string-class=NSConstantString -Werror=objc-method-access -Werror=objc-property-implementation \
    -I$(METAL_EMULATOR)/host/include -isystem /usr/include/GNUstep -idirafter $(metal_gcc_include)
METAL_LIBS = -L$(METAL_EMULATOR_OUT) -Wl,-rpath,$(abspath $(METAL_EMULATOR_OUT)) -lMetal -lgnustep-base -lobjc

metal_sources = $(wildcard $(METAL_EMULATOR)/$(1))
metal_objects = $(patsubst $(METAL_EMULATOR)/%,$(METAL_EMULATOR_OUT)/emulator/%.o,$(1))
metal_host_objects := $(call metal_objects,$(call metal_sources,host/*.[cm]))
metal_case_objects := $(call metal_objects,$(call metal_sources,host/cases/case.m) $(call metal_sources,host/cases/*_cases.m))
metal_reflection_object := $(call metal_objects,$(METAL_EMULATOR)/host/cases/reflection.m)
METAL_EMULATOR_RUNTIME_OBJECTS ?= $(call metal_objects,$(call metal_sources,runtime/*.[cS]))
metal_flags = -g -fPIC -pthread $(WARNINGS) -I$(METAL_EMULATOR) -I$(METAL_EMULATOR)/host -MMD -MP

.PHONY: metal-cases metal-objcflags

$(METAL_EMULATOR_LIBRARY): $(metal_host_objects) $(METAL_EMULATOR_RUNTIME_OBJECTS)
	$(METAL_EMULATOR_CLANG) -shared -pthread -Wl,-z,defs -o $@ $^ -lgnustep-base -lobjc -ldl -lm

$(METAL_EMULATOR_OUT)/emulator/%.m.o: $(METAL_EMULATOR)/%.m
	@mkdir -p $(@D)
	$(METAL_EMULATOR_CLANG) $(METAL_OBJCFLAGS) -O1 $(metal_flags) -c $< -o $@

# -O2: every simulated thread passes through the runtime.
$(METAL_EMULATOR_OUT)/emulator/%.c.o: $(METAL_EMULATOR)/%.c
	@mkdir -p $(@D)
	$(METAL_EMULATOR_CLANG) -std=gnu11 -O2 $(metal_flags) -c $< -o $@

$(METAL_EMULATOR_OUT)/emulator/%.S.o: $(METAL_EMULATOR)/%.S
	@mkdir -p $(@D)
	$(METAL_EMULATOR_CLANG) $(metal_flags) -c $< -o $@

# ------------------------------------------------------------------ for tests/metal_emulator/tests/test_api.py

metal-cases: $(METAL_EMULATOR_OUT)/metal-cases $(METAL_EMULATOR_OUT)/metal-reflection

$(METAL_EMULATOR_OUT)/metal-cases: $(metal_case_objects) $(METAL_EMULATOR_LIBRARY)
	$(METAL_EMULATOR_CLANG) -pthread -o $@ $(metal_case_objects) $(METAL_LIBS)

$(METAL_EMULATOR_OUT)/metal-reflection: $(metal_reflection_object) $(METAL_EMULATOR_LIBRARY)
	$(METAL_EMULATOR_CLANG) -o $@ $< $(METAL_LIBS)

metal-objcflags:
	@echo $(METAL_OBJCFLAGS)

-include $(metal_host_objects:.o=.d) $(metal_case_objects:.o=.d) $(METAL_EMULATOR_RUNTIME_OBJECTS:.o=.d)
