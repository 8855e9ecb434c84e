# The fuzz targets, and the stress program beside them. Each target is a program of its own, of libFuzzer, the harness and the library, all under the sanitizers.

FUZZ_PROGRAMS := $(patsubst tests/fuzz/%_fuzz.c,$(OUT)/%,$(wildcard tests/fuzz/*_fuzz.c))
FUZZ_OBJECTS := $(patsubst %.c,$(OUT)/%.o,$(filter-out tests/fuzz/replay.c,$(wildcard tests/fuzz/*.c)))
FUZZ_HARNESS := $(filter-out %_fuzz.o,$(FUZZ_OBJECTS))

.SECONDARY: $(FUZZ_OBJECTS)
.PHONY: fuzz-programs fuzz-run

# Kernels are large: checks as calls, and without those that AddressSanitizer makes too, they compile in a third of the time.
$(OUT)/src/cpu/isa_%.o: private OPTIMISE += -mllvm -asan-instrumentation-with-call-threshold=0 \
    -fno-sanitize=null,object-size,pointer-overflow

# Arithmetic on every element, which has no guidance to give; instrumented, it would take most of the time.
$(OUT)/tests/fuzz/reference.o: private OPTIMISE := -O2

$(FUZZ_PROGRAMS): $(OUT)/%: $(OUT)/tests/fuzz/%_fuzz.o $(FUZZ_HARNESS) $(STATIC) $(OUT)/link_flags
	$(CC) -fsanitize=fuzzer,address,undefined -pthread $(LDFLAGS) -o $@ $(filter %.o %.a,$^) -lm

# Not fuzzed, but clang's AddressSanitizer is the one that survives a fork.
STRESS := $(OUT)/stress

$(STRESS): tests/cpu/stress_test.c tests/support/check.h $(STATIC) $(OUT)/link_flags
	$(CC) $(C_FLAGS) -Itests/support -fsanitize=address,undefined $(LDFLAGS) -o $@ $(filter %.c %.a,$^) -lm

fuzz-programs: $(FUZZ_PROGRAMS) $(STRESS)

# What is new goes to build/fuzz/corpus, and a failing input to build/fuzz.
fuzz-run: fuzz-programs
	for program in $(FUZZ_PROGRAMS); do \
	    target=$$(basename $$program); \
	    mkdir -p $(OUT)/corpus/$$target && \
	    $$program -max_total_time=$(SECONDS) -max_len=256 -len_control=0 -verbosity=1 -artifact_prefix=$(OUT)/$$target- \
	        $(OUT)/corpus/$$target tests/fuzz/corpus/$$target || exit 1; \
	done
	$(STRESS) $(SECONDS)

-include $(FUZZ_OBJECTS:.o=.d)
