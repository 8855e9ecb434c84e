"""Rewrites preprocessed Metal source into clang's OpenCL C++, line for line, and appends entry points.

What differs between the two languages and cannot be said by a header: attributes, function constants, vector
constructors, threadgroup variables, literal suffixes, and names that OpenCL reserves.
"""

import re
from dataclasses import dataclass, replace

from command import CompileError

SCALARS = [
    "bool",
    "char",
    "uchar",
    "short",
    "ushort",
    "int",
    "uint",
    "long",
    "ulong",
    "half",
    "bfloat",
    "float",
]
VECTORS = {f"{scalar}{width}" for scalar in SCALARS[1:] for width in (2, 3, 4)}
RESERVED_BY_OPENCL = {"local", "global", "generic", "read_only", "write_only", "read_write", "pipe"}
BINDINGS = ("buffer", "threadgroup")
CLOSING = {"(": ")", "[": "]", "{": "}"}

TOKEN = re.compile(
    r"""(?P<marker>^\#.*$)
      | (?P<space>\s+)
      | (?P<text>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')
      | (?P<number>\.?\d(?:[eEpP][+-]|[\w.'])*)
      | (?P<name>[A-Za-z_]\w*)
      | (?P<mark>->|::|&&|.)""",
    re.VERBOSE | re.MULTILINE,
)
LINE_MARKER = re.compile(r'#\s*(?:line\s+)?(\d+)\s+"(.*?)"')


class TransformError(CompileError):
    """The source says something that the emulator does not understand; the text begins with file and line."""


@dataclass
class Token:
    text: str
    kind: str
    place: str


@dataclass
class Parameter:
    name: str
    binding: str  # "buffer", "threadgroup" or the name of another attribute
    index: str = ""
    condition: str = ""
    kind: str = "DEVICE"
    read_only: bool = False


@dataclass
class Kernel:
    name: str
    callee: str  # the function, with template arguments
    parameters: list
    max_threads: str = "0"
    template: str = ""  # its parameters, which max_threads may use


@dataclass
class FunctionConstant:
    name: str
    type: str
    index: str
    required: bool = True


def tokenize(source):
    """Every character of the source in some token, so that joining them gives it back."""
    tokens, file, line = [], "program_source", 1
    for match in TOKEN.finditer(source):
        text, kind = match.group(), match.lastgroup
        marker = LINE_MARKER.match(text) if kind == "marker" else None
        if marker:
            line, file = int(marker[1]) - 1, marker[2]
        tokens.append(Token(text, kind, f"{file}:{line}"))
        line += text.count("\n")
    return tokens


class Source:
    """The tokens of a source, of which passes replace some; `significant` skips space and directives."""

    def __init__(self, source):
        self.tokens = tokenize(source)
        self.refresh()

    def refresh(self):
        self.significant = [t for t in self.tokens if t.kind not in ("space", "marker") and t.text]

    def text(self):
        return "".join(token.text for token in self.tokens)

    def __len__(self):
        return len(self.significant)

    def at(self, index):
        return self.significant[index].text if 0 <= index < len(self.significant) else ""

    def place(self, index):
        return self.significant[min(index, len(self.significant) - 1)].place

    def fail(self, index, message):
        raise TransformError(f"{self.place(index)}:1: error: {message}\n")

    def erase(self, begin, end):
        for index in range(begin, end):
            self.significant[index].text = ""

    def join(self, begin, end):
        return " ".join(token.text for token in self.significant[begin:end] if token.text)

    def after_group(self, index):
        """One past the bracket that closes the one at index."""
        depth, opening = 0, self.at(index)
        closing = CLOSING[opening]
        for position in range(index, len(self)):
            depth += (self.at(position) == opening) - (self.at(position) == closing)
            if depth == 0:
                return position + 1
        self.fail(index, f"'{opening}' is never closed")

    def after_angles(self, index):
        """One past the template arguments that begin at index, or index if there are none."""
        if self.at(index) != "<":
            return index
        depth, position = 0, index
        while position < len(self) and self.at(position) not in (";", "{", "}"):
            if self.at(position) == "(":
                position = self.after_group(position)
                continue
            depth += (self.at(position) == "<") - (self.at(position) == ">")
            position += 1
            if depth == 0:
                return position
        return index

    def split(self, begin, end):
        """Ranges between the commas of begin..end that stand in no bracket."""
        ranges, start, position = [], begin, begin
        while position < end:
            if self.at(position) in CLOSING:
                position = self.after_group(position)
            elif self.at(position) == "<":
                position = max(self.after_angles(position), position + 1)
            else:
                if self.at(position) == ",":
                    ranges.append((start, position))
                    start = position + 1
                position += 1
        return [*ranges, (start, end)] if start < end else ranges

    def attributes(self, index):
        """Parses the [[...]] at index: the attributes, and one past them."""
        end = self.after_group(index)
        found = {}
        for begin, stop in self.split(index + 2, end - 2):
            has_argument = self.at(begin + 1) == "("
            found[self.at(begin)] = self.join(begin + 2, stop - 1) if has_argument else ""
        return found, end

    def is_attribute(self, index):
        return self.at(index) == "[" and self.at(index + 1) == "["


class Transform:
    def __init__(self, source):
        self.source = Source(source)
        self.kernels = []
        self.templates = {}  # kernel templates: name to parameters and attributes
        self.constants = []
        self.asked_for = set()  # constants under is_function_constant_defined
        self.in_initialisers = set()  # names that initialise other constants
        self.made = set(VECTORS)  # type names whose NAME(...) constructs a value
        self.structs = set()

    def run(self):
        self._collect_names()
        self._declarations()
        self.source.refresh()
        self._function_constant_questions()
        self._threadgroup_variables()
        self.source.refresh()
        self._expressions()
        for constant in self.constants:
            constant.required = constant.name not in self.asked_for
        return self

    def _collect_names(self):
        source = self.source
        for i in range(len(source)):
            word, previous = source.at(i), source.at(i - 1)
            if (previous in ("typename", "class") and source.at(i + 1) in (",", ">", "=")) or (
                previous == "using" and source.at(i + 1) == "="
            ):
                self.made.add(word)
            elif previous in ("struct", "class") and source.at(i + 1) in ("{", ":"):
                self.structs.add(word)
            elif word == "typedef" and source.at(i + 1) not in ("struct", "union", "enum"):
                end = i
                while source.at(end) not in (";", ""):
                    end += 1
                self.made.add(source.at(end - 1))

    def _declarations(self):
        """Kernels, their instantiations and function constants; removes every attribute."""
        source, i, depth = self.source, 0, 0
        pending, template = {}, ""  # attributes and template parameters of the declaration being read
        while i < len(source):
            word = source.at(i)
            if source.is_attribute(i):
                found, end = source.attributes(i)
                pending.update(found)
                source.erase(i, end)
                i = end
                continue
            if word == "kernel":
                pending["kernel"] = ""
                source.erase(i, i + 1)
            elif word == "template" and depth == 0:
                if source.at(i + 1) != "<":
                    i = self._instantiation(i)
                    continue
                end = source.after_angles(i + 1)
                template = source.join(i, end)
                i = end
                continue
            elif word == "constant" and depth == 0 and not template:
                end = self._function_constant(i)
                if end:
                    i = end
                    continue
                self._remember_initialiser(i)
            elif "kernel" in pending and depth == 0 and source.at(i + 1) == "(":
                i = self._kernel(i, pending, template)
                pending, template = {}, ""
                continue
            elif word == "{" and source.at(i - 1) != '"C"' and not self._opens_namespace(i):
                depth += 1
            elif word == "}":
                depth = max(depth - 1, 0)
            if word in (";", "}") and depth == 0:
                pending, template = {}, ""
            i += 1

    def _opens_namespace(self, index):
        return "namespace" in (self.source.at(index - 1), self.source.at(index - 2))

    def _function_constant(self, index):
        """constant TYPE NAME [[function_constant(INDEX)]]; or None if it is another declaration."""
        source = self.source
        if not source.is_attribute(index + 3):
            return None
        found, end = source.attributes(index + 3)
        if "function_constant" not in found or source.at(end) != ";":
            return None
        name = source.at(index + 2)
        self.constants.append(FunctionConstant(name, source.at(index + 1), found["function_constant"]))
        source.erase(index, end + 1)
        source.significant[index].text = f"EMU_DECLARE_{name}"
        return end + 1

    def _remember_initialiser(self, index):
        while self.source.at(index) not in (";", ""):
            self.in_initialisers.add(self.source.at(index))
            index += 1

    def _kernel(self, index, attributes, template):
        source, name = self.source, self.source.at(index)
        end = source.after_group(index + 1)
        parameters = [self._parameter(name, *part) for part in source.split(index + 2, end - 1)]
        limit = attributes.get("max_total_threads_per_threadgroup", "0")
        host_name = attributes.get("host_name", name).strip('"')
        kernel = Kernel(host_name, name, parameters, limit, template)
        if template:
            self.templates[name] = kernel
        elif source.at(end) == "{":
            self.kernels.append(kernel)
        return end

    def _parameter(self, kernel, begin, end):
        source = self.source
        attribute_at = next((i for i in range(begin, end) if source.is_attribute(i)), None)
        if attribute_at is None:
            source.fail(
                begin, f"a parameter of kernel '{kernel}' has no attribute: {source.join(begin, end)}"
            )
        found, after = source.attributes(attribute_at)
        words = [source.at(i) for i in range(begin, attribute_at)]
        condition = found.pop("function_constant", "")
        if len(found) != 1:
            source.fail(
                begin, f"'{words[-1]}' of kernel '{kernel}' needs one attribute besides function_constant"
            )
        ((binding, index),) = found.items()
        space = next((word for word in words if word in ("device", "constant", "threadgroup")), "")
        if binding in BINDINGS and not space:
            source.fail(begin, f"'{words[-1]}' of kernel '{kernel}' has no address space")
        source.erase(attribute_at, after)
        read_only = space == "constant" or "const" in words
        return Parameter(words[-1], binding, index, condition, space.upper(), read_only)

    def _instantiation(self, index):
        """template [[host_name("...")]] [[kernel]] void NAME<...>(...); becomes a kernel and disappears."""
        source, end = self.source, index
        while source.at(end) not in (";", ""):
            end += 1
        found, i, callee, name = {}, index + 1, None, None
        while i < end:
            if source.is_attribute(i):
                more, i = source.attributes(i)
                found.update(more)
            elif source.at(i) in self.templates and source.at(i + 1) == "<":
                stop = source.after_angles(i + 1)
                name, callee = source.at(i), source.join(i, stop)
                i = stop
            else:
                i += 1
        if "host_name" not in found:
            return index + 1
        if name is None:
            source.fail(index, f"{found['host_name']} instantiates no kernel template known here")
        self.kernels.append(replace(self.templates[name], name=found["host_name"].strip('"'), callee=callee))
        source.erase(index, end + 1)
        return end + 1

    def _function_constant_questions(self):
        source = self.source
        for i in range(len(source)):
            if source.at(i) == "is_function_constant_defined":
                self.asked_for.add(source.at(i + 2))
                source.significant[i].text = "EMU_DEFINED_" + source.at(i + 2)
                source.erase(i + 1, i + 4)

    def _threadgroup_variables(self):
        """threadgroup T x[N]; inside a function becomes a reference to memory that the emulator lays out."""
        source = self.source
        for i in range(len(source)):
            if source.at(i) != "threadgroup" or source.at(i - 1) not in ("{", "}", ";", ")"):
                continue
            end = i
            while source.at(end) not in (";", ""):
                end += 1
            # A pointer to threadgroup memory is an ordinary variable.
            declarator = next((k for k in range(i, end) if source.at(k) == "["), end)
            if {"*", "&", "=", "("} & {source.at(k) for k in range(i, declarator)}:
                continue
            self._threadgroup_variable(i, end)

    def _threadgroup_variable(self, begin, end):
        source = self.source
        first, *more = source.split(begin + 1, end)
        name_at = next((i for i in range(*first) if source.at(i) == "["), first[1]) - 1
        type_name, line = source.join(first[0], name_at), source.place(begin).rpartition(":")[2]
        replacement = []
        for start, stop in [(name_at, first[1]), *more]:
            name, shape = source.at(start), source.join(start + 1, stop)
            section = '__attribute__((section("emu_variables"), aligned(8)))'
            replacement.append(
                f"static __global {section} emu_variable emu_{name} = "
                f'{{0, sizeof({type_name}{shape}), "{name}", {line}}}; '
                f"__local {type_name} (&{name}){shape} = "
                f"*(__local {type_name} (*){shape})emu::emu_threadgroup_address(&emu_{name});"
            )
        source.erase(begin, end)
        source.significant[begin].text = " ".join(replacement)

    def _expressions(self):
        source = self.source
        for i in range(len(source)):
            token = source.significant[i]
            if token.kind == "number":
                token.text = literal(token.text)
            elif token.kind != "name":
                continue
            elif token.text in RESERVED_BY_OPENCL:
                token.text += "_in_metal"
            elif token.text == "thread" and source.at(i - 1) == ")" and source.at(i + 1) in ("{", ":"):
                self._drop_constructor_qualifier(i)
            elif self._constructs(i):
                token.text = f"emu::make<{token.text}"
                stop = max(source.after_angles(i + 1), i + 1)
                source.significant[stop - 1].text += ">"

    def _constructs(self, index):
        source, word = self.source, self.source.at(index)
        if word == "vec":
            after = source.after_angles(index + 1)
        elif word in self.made:
            after = index + 1
        else:
            return False
        if source.at(index - 1) in (".", "->", "operator", "struct", "class", "typename"):
            return False
        return source.at(after) == "(" and source.at(after + 1) not in ("*", "&")

    def _drop_constructor_qualifier(self, index):
        """OpenCL's constructors take no address space, its other methods do."""
        source, depth = self.source, 0
        for position in range(index - 1, -1, -1):
            depth += (source.at(position) == ")") - (source.at(position) == "(")
            if depth == 0:
                if source.at(position - 1) in self.structs:
                    source.erase(index, index + 1)
                return


def literal(number):
    if number.lower().startswith("0x") and "p" not in number.lower():
        return number
    for suffix, type_name in (("bf", "bfloat"), ("BF", "bfloat"), ("h", "half"), ("H", "half")):
        if number.endswith(suffix):
            return f"(({type_name}){number[: -len(suffix)]}f)"
    return number
