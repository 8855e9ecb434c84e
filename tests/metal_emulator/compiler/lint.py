"""What Apple's compiler or the house rules refuse, though it runs here.

The compiler itself refuses, in OpenCL C++ mode, mixed address spaces, double, exceptions, virtual functions
and pointers to functions. Added here: words that it lets pass, pointers without an address space, recursion.
"""

import itertools
import re
import subprocess
import sys

import library
from command import CODE, LANGUAGE, SHIM, CompileError
from module_source import lint_source
from msl_transform import Source

REFUSED_WORDS = {
    "double",
    "asm",
    "__asm",
    "__asm__",
    "virtual",
    "try",
    "throw",
    "catch",
    "goto",
    "dynamic_cast",
    "typeid",
    # Kinds of functions, whose names nothing else can have; `kernel` is also an attribute.
    "fragment",
    "vertex",
}
TYPE_OR_NUMBER = re.compile(r"\b(?:half|bfloat|float|\d+)\b")
AST_OF_SPECIALISATIONS = ["-Xclang", "-ast-dump", "-Xclang", "-ast-dump-filter=emu_specialisation_"]
UNOPTIMISED_CODE = ["-O0", "-S", "-emit-llvm", "-Xclang", "-disable-llvm-passes", "-o", "-"]
QUALIFIERS = {"const", "thread", "device", "constant", "threadgroup", "noexcept"}
# Nodes of the syntax tree: how deep, what, where, and in single quotes its type.
NODE = re.compile(r"^(?P<branch>[ |`-]*)(?P<kind>\w+) 0x\w+ (?:prev 0x\w+ )?<(?P<place>[^>]*)>(?P<rest>.*)$")
PLACE = re.compile(r"([^\s:,<]+):(\d+):\d+")  # the file, or `line` for the same as before
FILE = re.compile(r'^(!\d+) = !DIFile\(filename: "([^"]*)"')
SUBPROGRAM = re.compile(r'^(!\d+) = distinct !DISubprogram\(name: "([^"]*)".*?\bfile: (!\d+), line: (\d+)')
FUNCTION = re.compile(r"^define .*?@([\w$.]+)\(.*?(?:!dbg (!\d+))? \{")
CALL = re.compile(r"\bcall [^@]*@([\w$.]+)\(")


class LintError(CompileError):
    """What was refused, a line for each."""


def check(folder, clang, request):
    """Raises LintError or the compiler's own error."""
    texts = library.preprocess(folder, clang, request, request.specialisations or [request.macros])
    libraries = [library.transformed(text) for text in texts]
    # Texts that differ in no more than types and numbers declare the same, in the same words.
    different = {TYPE_OR_NUMBER.sub("0", text): i for i, text in enumerate(texts)}.values()
    examples = [libraries[i] for i in different]
    tree = syntax_tree(clang, lint_source(examples, {}))
    found = [*itertools.chain(*(refused_words(texts[i]) for i in different)), *unqualified_pointers(tree)]
    first, *others = request.constant_sets or [{}]
    for some, constants in [(libraries, first), *((examples, constants) for constants in others)]:
        source = lint_source(some, constants)
        to_code = [clang, *LANGUAGE, *CODE, "-I", SHIM, *UNOPTIMISED_CODE, "-"]
        if any(recursion(_output([*to_code, "-g0"], source))):
            found += recursion(_output(to_code, source))  # with the lines
    if found:
        raise LintError("".join(f"{line}\n" for line in found))


def syntax_tree(clang, source):
    """Of the specialisations in what lint_source made."""
    command = [clang, *LANGUAGE, *CODE, "-I", SHIM, "-fsyntax-only", *AST_OF_SPECIALISATIONS, "-"]
    return _output(command, source)


def _output(command, text):
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    sys.stderr.write(done.stderr)
    if done.returncode:
        raise CompileError("")
    return done.stdout


def refused_words(text):
    source, braces = Source(text), []  # of each open brace: whether it belongs to a function
    for i in range(len(source)):
        token = source.significant[i]
        if token.text == "{":
            before = i - 1
            while source.at(before) in QUALIFIERS:
                before -= 1
            braces.append(source.at(before) == ")" or (bool(braces) and braces[-1]))
        elif token.text == "}" and braces:
            braces.pop()
        elif token.kind == "name" and token.text in REFUSED_WORDS:
            yield f"{token.place}:1: error: '{token.text}' is refused"
        elif token.text == "static" and braces and braces[-1]:
            yield f"{token.place}:1: error: a 'static' local variable is refused"


def unqualified_pointers(tree):
    """Pointers and references with OpenCL's generic address space, which Metal lacks."""
    lines = tree.splitlines()
    for number, text in enumerate(lines):
        node = NODE.match(text) if "__generic" in text else None
        if not node or node["kind"] not in ("ParmVarDecl", "VarDecl", "FieldDecl"):
            continue
        declared = re.search(r"(\w+)? '([^']*)'", node["rest"])
        if declared and re.search(r"__generic\b[^']*[*&]", declared[2]) and not _is_implicit(lines, number):
            yield f"{_place(lines, number)}:1: error: '{declared[1] or ''}' points to no address space"


def _is_implicit(lines, number):
    """Whether the compiler itself wrote the declaration, or one that it is part of."""
    depth = None
    for at in range(number, -1, -1):
        node = NODE.match(lines[at])
        if node and (depth is None or len(node["branch"]) < depth):
            depth = len(node["branch"])
            if re.search(r"\bimplicit\b(?!-inline)", node["rest"]):
                return True
            if depth == 0:
                break
    return False


def _place(lines, number):
    """File and line: a node says only what differs from the place before."""
    line = None
    for at in range(number, -1, -1):
        for place in reversed(PLACE.findall(re.sub(r"'[^']*'", "", lines[at]))):
            line = line or place[1]
            if place[0] != "line":
                return f"{place[0]}:{line}"
    return f"?:{line or 0}"


def recursion(code):
    calls, places, current = {}, {}, None
    lines = code.splitlines()
    files = {m[1]: m[2] for m in map(FILE.match, lines) if m}
    subprograms = {m[1]: (m[2], f"{files[m[3]]}:{m[4]}") for m in map(SUBPROGRAM.match, lines) if m}
    for line in lines:
        function = FUNCTION.match(line)
        if function:
            current = function[1]
            calls[current] = set()
            places[current] = subprograms.get(function[2], (current, "?:0"))
        elif current:
            calls[current].update(CALL.findall(line))
    left = {name: called & calls.keys() for name, called in calls.items()}
    while ended := [name for name, called in left.items() if not called & left.keys()]:
        for name in ended:
            del left[name]
    for name in left:
        if name in _reachable(left, name):
            function, place = places[name]
            yield f"{place}:1: error: '{function}' calls itself"


def _reachable(calls, start):
    found, left = set(), list(calls[start])
    while left:
        name = left.pop()
        if name in calls and name not in found:
            found.add(name)
            left += calls[name]
    return found
