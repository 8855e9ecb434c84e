"""Builds the C core once, as a shared libmfa inside the package, and the Cython modules against it.

Everything else about the package is in pyproject.toml. No flag depends on the machine that builds: the C
sources select instruction sets themselves, at run time.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
MACOS = sys.platform == "darwin"
LIBRARY = "libmfa.dylib" if MACOS else "libmfa.so"


def flags(name):
    """The words that flags.mk gives `name`."""
    [words] = re.findall(rf"^{name} := (.*)$", ROOT.joinpath("flags.mk").read_text(), flags=re.MULTILINE)
    return shlex.split(words)


def relative(paths):
    return sorted(str(path.relative_to(ROOT)) for path in paths)


def core_sources():
    """On macOS the Metal backend is built in place of its stub."""
    sources = relative(ROOT.glob("src/**/*.c"))
    if MACOS:
        sources.remove(str(Path("src", "metal", "metal_stub.c")))
        sources += relative(ROOT.glob("src/metal/*.m"))
    # Kernels first: they take longest to compile.
    return sorted(sources, key=lambda source: "isa_" not in source)


def environment_flags(name):
    return shlex.split(os.environ.get(name, ""))


# After Python's own flags, whose -g is of no use to whoever installs a wheel, and before the user's. Without
# NDEBUG, which setuptools leaves out where there are CFLAGS, assertions in Python's headers would say where
# these were.
COMMON_FLAGS = [*flags("HARDENING"), "-DNDEBUG", "-g0", f"-ffile-prefix-map={ROOT}=."]
CORE_FLAGS = [*flags("RELEASE"), *flags("CORE_FLAGS"), *flags("WARNINGS"), *COMMON_FLAGS]
LINK_FLAGS = [] if MACOS else flags("ELF_HARDENING")
CORE_INCLUDES = [flag.removeprefix("-I") for flag in flags("INCLUDES")]
CORE_SOURCES = core_sources()
CORE_HEADERS = relative(path for name in CORE_INCLUDES for path in ROOT.joinpath(name).glob("**/*.[hi]*"))


def processors():
    """How many this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def version():
    """The version that mfa.h gives the library."""
    numbers = {}
    for line in ROOT.joinpath("include/mfa.h").read_text().splitlines():
        words = line.split()
        if words[:1] == ["#define"] and words[1].startswith("MFA_VERSION_"):
            numbers[words[1]] = words[2]
    return ".".join(numbers[f"MFA_VERSION_{part}"] for part in ("MAJOR", "MINOR", "PATCH"))


# How pkg-config and CMake find the library and the header in the package, wherever that is: where their files
# are in it, and what the templates of these are filled in with.
DESCRIPTIONS = ("pkgconfig/mfa.pc", "cmake/mfa/mfaConfig.cmake", "cmake/mfa/mfaConfigVersion.cmake")
DESCRIBED = {
    "PREFIX": "${pcfiledir}/..",
    "LIBDIR": "${prefix}",
    "INCLUDEDIR": "${prefix}/include",
    "FROM_LIB": "include",
    "VERSION": version(),
    "SHARED": LIBRARY,
    "METAL_LIBS": "",
    "METAL_ITEMS": "",
}


def description(name):
    """A file of DESCRIPTIONS, made from the template that `make install` has."""
    template = ROOT / "packaging" / "install" / f"{Path(name).name}.in"
    return re.sub(r"@([A-Z_]+)@", lambda match: DESCRIBED[match[1]], template.read_text())


class BuildWithCore(build_ext):
    """build_ext that first builds libmfa beside the modules, and installs what C needs of it with them."""

    def finalize_options(self):
        super().finalize_options()
        self.parallel = self.parallel or processors()

    def build_extensions(self):
        self.forget_python_folders()
        package = Path(self.build_lib, "mfa")
        sources = [self.embed_kernels(), *CORE_SOURCES] if MACOS else CORE_SOURCES
        with ThreadPoolExecutor(self.parallel) as pool:
            objects = pool.map(self.compile_core, sources)
            # Meanwhile, as it takes one processor only.
            self.translate()
            library = self.build_library(package, list(objects))
        header = package / "include" / "mfa.h"
        header.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile("include/mfa.h", header)
        for name in DESCRIPTIONS:
            path = package / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(description(name))
        for extension in self.extensions:
            extension.extra_objects = [str(library)]
            extension.depends = [*extension.depends, str(library), "include/mfa.h"]
        super().build_extensions()

    def forget_python_folders(self):
        """No library is sought where this Python has its own: on another machine that may be anybody's."""
        asked_for = environment_flags("LDFLAGS")
        command = self.compiler.linker_so
        found = [flag for flag in command if flag in asked_for or not flag.startswith(("-L", "-Wl,-rpath"))]
        self.compiler.set_executable("linker_so", found)

    def translate(self):
        # Here rather than in setup(), which runs for an sdist too.
        translated = cythonize(
            self.extensions,
            build_dir="build/cython",
            include_path=["."],
            compiler_directives={
                "language_level": 3,
                "embedsignature": True,
                "embedsignature.format": "python",
            },
        )
        sources = {extension.name: extension.sources for extension in translated}
        for extension in self.extensions:
            extension.sources = sources[extension.name]

    def embed_kernels(self):
        """The C file that holds the Metal kernels as text; written only if it changes."""
        path = Path(self.build_temp, "metal_sources.c")
        subprocess.run([sys.executable, "metal/embed.py", path], check=True)
        return str(path)

    def build_library(self, package, objects):
        library = package / LIBRARY
        newest_object = max(map(os.path.getmtime, objects))
        if self.force or not library.exists() or library.stat().st_mtime < newest_object:
            library.parent.mkdir(parents=True, exist_ok=True)
            self.link_core(objects, library)
        return library

    def compile_core(self, source):
        [target] = self.compiler.object_filenames([source], output_dir=self.build_temp)
        newest = max(map(os.path.getmtime, [source, *CORE_HEADERS, "setup.py", "flags.mk"]))
        if self.force or not os.path.exists(target) or os.path.getmtime(target) < newest:
            objc = flags("OBJC_FLAGS") if source.endswith(".m") else []
            self.compiler.compile(
                [source],
                output_dir=self.build_temp,
                include_dirs=CORE_INCLUDES,
                # CFLAGS late, so that a debug build's -O1 wins over -O3.
                extra_postargs=[*CORE_FLAGS, *environment_flags("CFLAGS"), *objc],
            )
        return target

    def link_core(self, objects, library):
        if MACOS:
            # Python's linker command makes bundles, which nothing can link against.
            name = ["-dynamiclib", "-install_name", f"@rpath/{LIBRARY}"]
            linker = [flag for flag in self.compiler.linker_so if flag != "-bundle"]
            libraries = flags("METAL_FRAMEWORKS")
        else:
            name = [f"-Wl,-soname,{LIBRARY}", *LINK_FLAGS]
            linker = self.compiler.linker_so
            libraries = ["-lm"]
        subprocess.run([*linker, *objects, "-o", str(library), *name, "-pthread", *libraries], check=True)

    def core_outputs(self):
        return [str(Path("mfa", name)) for name in (LIBRARY, "include/mfa.h", *DESCRIPTIONS)]

    def get_outputs(self):
        return [
            *super().get_outputs(),
            *(str(Path(self.build_lib, output)) for output in self.core_outputs()),
        ]

    def copy_extensions_to_source(self):
        super().copy_extensions_to_source()
        for output in self.core_outputs():
            Path(output).parent.mkdir(parents=True, exist_ok=True)
            self.copy_file(str(Path(self.build_lib, output)), output)


def extension(path):
    origin = "@loader_path" if MACOS else "$ORIGIN"
    return Extension(
        f"mfa.{path.stem}",
        [str(path.relative_to(ROOT))],
        include_dirs=["include"],
        # Where there are CFLAGS, even empty ones, setuptools leaves out Python's own, -O3 among them.
        extra_compile_args=[*flags("MODULES"), "-fwrapv", *COMMON_FLAGS, *environment_flags("CFLAGS")],
        extra_link_args=[f"-Wl,-rpath,{origin}", *LINK_FLAGS],
        depends=relative(ROOT.glob("mfa/*.pxd")),
    )


setup(
    version=version(),
    ext_modules=[extension(path) for path in sorted(ROOT.glob("mfa/*.pyx"))],
    cmdclass={"build_ext": BuildWithCore},
)
