"""The OpenCL C++ text of a module: a transformed Metal source, tables about it, and an entry point."""

import itertools
import struct

PRELUDE = '#include "metal_stdlib"\n'
KINDS = {"DEVICE": 0, "CONSTANT": 1, "THREADGROUP": 2}  # as emu_argument_kind
FORMATS = {"bool": "?", "char": "b", "uchar": "B", "short": "h", "ushort": "H", "int": "i", "uint": "I"}
FORMATS |= {"long": "q", "ulong": "Q", "half": "e", "float": "f"}

# Inlined as on a GPU, which also tells apart who called a helper; compiled only if called.
FUNCTION_ATTRIBUTES = ["always_inline", "internal_linkage"]


def constant_value(type_name, data):
    """A literal of exactly this value."""
    if type_name == "bfloat":
        return f"__builtin_bit_cast(bfloat, (ushort){struct.unpack('H', data)[0]})"
    if type_name in ("half", "float"):
        integer, code = ("ushort", "H") if type_name == "half" else ("uint", "I")
        return f"__builtin_bit_cast({type_name}, ({integer}){struct.unpack(code, data)[0]}u)"
    value = struct.unpack(FORMATS[type_name], data)[0]
    if type_name == "bool":
        return "true" if value else "false"
    return f"({type_name}){value}{'ul' if type_name == 'ulong' else ''}"


def library_source(library):
    """Everything is checked; only the tables are compiled to anything."""
    entries = [f"static inline {_entry(f'emu_entry_{i}', k)}" for i, k in enumerate(library.kernels)]
    return _module(library, _defines(library, {}), library.kernels, set(), entries)


def lint_source(libraries, values):
    """Specialisations side by side: each a namespace, with all of its kernels called."""
    parts = ['# 1 "specialisations"', PRELUDE, "using metal::vec;"]
    for i, library in enumerate(libraries):
        parts += [f"namespace emu_specialisation_{i} {{", *_defines(library, values)]
        parts += ['# 1 "program_source"', library.text, '# 1 "specialisations"']
        parts += [_entry(f"emu_entry_{j}", kernel) for j, kernel in enumerate(library.kernels)]
        parts += [line for kernel in library.kernels for line in _different_numbers(kernel)]
        for constant in library.constants:
            parts += [f"#undef EMU_DEFINED_{constant.name}", f"#undef EMU_DECLARE_{constant.name}"]
        parts.append("}")
    return "\n".join([*parts, ""])


def _defines(library, values):
    """Function constants, with 0 for those without a value."""
    lines = []
    for c in library.constants:
        value = constant_value(c.type, values[c.name]) if c.name in values else f"({c.type})0"
        lines.append(f"#define EMU_DEFINED_{c.name} true")
        lines.append(f"#define EMU_DECLARE_{c.name} constant {c.type} {c.name} = {value};")
    return lines


def pipeline_source(library, kernel_name, values):
    """One kernel, with its function constants: `values` has the bytes of each one given."""
    kernel = next(kernel for kernel in library.kernels if kernel.name == kernel_name)
    lines, missing = [], set()
    for constant in library.constants:
        name, type_name = constant.name, constant.type
        data = values.get(name)
        lines.append(f"#define EMU_DEFINED_{name} {'true' if data is not None else 'false'}")
        if data is not None:
            declaration = f"constant {type_name} {name} = {constant_value(type_name, data)};"
        elif constant.required and name not in library.in_initialisers:
            missing.add(name)
            declaration = f'extern "C" {{ extern constant {type_name} {name}; }}'
        else:
            declaration = f"constant {type_name} {name} = ({type_name})0;"
        lines.append(f"#define EMU_DECLARE_{name} {declaration}")
    entry = _entry("emu_entry", kernel)
    return _module(library, lines, [kernel], missing, [f'extern "C" EMU_EXPORTED {entry}'])


def _module(library, defines, kernels, missing, entries):
    push = [
        f"#pragma clang attribute push(__attribute__(({name})), apply_to = function)"
        for name in FUNCTION_ATTRIBUTES
    ]
    pop = ["#pragma clang attribute pop" for _ in FUNCTION_ATTRIBUTES]
    return "\n".join(
        [
            PRELUDE,
            "using metal::vec;",
            '#define EMU_EXPORTED __attribute__((visibility("default")))',
            *defines,
            *push,
            '# 1 "program_source"',
            library.text,
            *pop,
            '# 1 "<tables>"',
            _tables(kernels, library.constants, missing),
            '# 1 "<entry>"',
            *entries,
            "",
        ]
    )


def _entry(name, kernel):
    passed = []
    for parameter in kernel.parameters:
        if parameter.binding == "buffer":
            passed.append(f"emu::argument{{arguments[({parameter.index})]}}")
        elif parameter.binding == "threadgroup":
            passed.append(f"emu::argument{{arguments[EMU_FIRST_THREADGROUP_SLOT + ({parameter.index})]}}")
        else:
            passed.append(f"emu::position{{EMU_{parameter.binding.upper()}}}")
    return f"void {name}(__global const ulong *arguments) {{ {kernel.callee}({', '.join(passed)}); }}"


def _different_numbers(kernel):
    """Two arguments with one number are refused, whatever function constants say of them."""
    for a, b in itertools.combinations((p for p in kernel.parameters if p.binding == "buffer"), 2):
        said = f"'{a.name}' and '{b.name}' of {kernel.name} have one number"
        yield f'static_assert(({a.index}) != ({b.index}), "{said}");'


def _limit_function(kernel):
    """The text of a function that computes max_threads, and of its call."""
    name, opening, arguments = kernel.callee.partition("<")
    limit = f"emu_limit_{name.strip()}"
    text = f"{kernel.template} constexpr uint {limit}() {{ return {kernel.max_threads}; }}"
    return text, f"{limit}{opening}{arguments}()"


def _table(record, name, rows):
    body = ", ".join("{" + ", ".join(row) + "}" for row in [*rows, ["0"]])
    return f'extern "C" EMU_EXPORTED const __constant {record} {name}[] = {{{body}}};'


def _variable_function(name, bound):
    return f'extern "C" EMU_EXPORTED __global emu_variable *{name}() {{ return {bound}; }}'


def _tables(kernels, constants, missing):
    arguments = []
    for kernel in kernels:
        for p in kernel.parameters:
            if p.binding not in ("buffer", "threadgroup"):
                continue
            condition = "false" if p.condition in missing else p.condition or "true"
            index, kind = f"(uint)({p.index})", str(KINDS[p.kind])
            flags = [str(int(p.read_only)), str(int(bool(p.condition))), f"(uint)(bool)({condition})"]
            arguments.append([f'"{kernel.name}"', f'"{p.name}"', index, kind, *flags])
    kernel_rows = [[f'"{kernel.name}"', _limit_function(kernel)[1]] for kernel in kernels]
    constant_rows = [
        [f'"{c.name}"', f'"{c.type}"', f"(uint)({c.index})", str(int(c.required))] for c in constants
    ]
    variables = '__attribute__((section("emu_variables"), aligned(8), used))'
    return "\n".join(
        [
            *dict.fromkeys(_limit_function(kernel)[0] for kernel in kernels),
            _table("emu_module_kernel", "emu_kernels", kernel_rows),
            _table("emu_module_argument", "emu_arguments", arguments),
            _table("emu_module_constant", "emu_constants", constant_rows),
            # The linker knows the bounds of a section only if it exists.
            f"static __global {variables} emu_variable emu_no_variable = {{0, 0, 0, 0}};",
            'extern "C" __global emu_variable __start_emu_variables[], __stop_emu_variables[];',
            _variable_function("emu_first_variable", "__start_emu_variables"),
            _variable_function("emu_end_of_variables", "__stop_emu_variables"),
        ]
    )
