"""What Apple's compiler or the house rules refuse, though it runs here.

The compiler itself refuses, in OpenCL C++ mode, mixed address spaces, double, exceptions, virtual functions
and pointers to functions. Added here: words that it lets pass, pointers without an address space, recursion.
"""

import re
import subprocess
import sys

import library
from command import CODE, LANGUAGE, SHIM, CompileError
from module_source import library_source
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
}
QUALIFIERS = {"const", "thread", "device", "constant", "threadgroup", "noexcept"}
# Nodes of the syntax tree: how deep, what, where, and in single quotes its type.
NODE = re.compile(r"^(?P<branch>[ |`-]*)(?P<kind>\w+) 0x\w+ (?:prev 0x\w+ )?<(?P<place>[^>]*)>(?P<rest>.*)$")
PLACE = re.compile(r"([^\s:,]+):(\d+):\d+")  # the file, or `line` for the same as before
FILE = re.compile(r'^(!\d+) = !DIFile\(filename: "([^"]*)"')
SUBPROGRAM = re.compile(r'^(!\d+) = distinct !DISubprogram\(name: "([^"]*)".*?\bfile: (!\d+), line: (\d+)')
FUNCTION = re.compile(r"^define .*?@([\w$.]+)\(.*?(?:!dbg (!\d+))? \{")
CALL = re.compile(r"\bcall [^@]*@([\w$.]+)\(")


class LintError(CompileError):
    """What was refused, a line for each."""


def check(folder, clang, request):
    """Raises LintError or the compiler's own error."""
    preprocessed = library.preprocess(folder, clang, request)
    text = library_source(library.transformed(preprocessed), emitted=True)
    flags = [clang, *LANGUAGE, *CODE, "-I", SHIM]
    tree = _output([*flags, "-fsyntax-only", "-Xclang", "-ast-dump", "-"], text)
    code = _output(
        [*flags, "-O0", "-S", "-emit-llvm", "-Xclang", "-disable-llvm-passes", "-o", "-", "-"], text
    )
    found = [*refused_words(preprocessed), *unqualified_pointers(tree), *recursion(code)]
    if found:
        raise LintError("".join(f"{line}\n" for line in found))


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
    """The user's pointers and references with OpenCL's generic address space, which Metal lacks."""
    inside, file, line, implicit_depth = False, "program_source", "0", None
    for text in tree.splitlines():
        node = NODE.match(text)
        if not node:
            continue
        depth, kind, rest = len(node["branch"]), node["kind"], node["rest"]
        place = PLACE.search(node["place"])
        if place:
            file, line = place[1] if place[1] != "line" else file, place[2]
        if kind == "EnumDecl" and "emu_user_text_" in rest:
            inside = "emu_user_text_begins" in rest
        if implicit_depth is not None and depth > implicit_depth:
            continue
        implicit_depth = depth if re.search(r"\bimplicit\b(?!-inline)", rest) else None
        if not inside or implicit_depth is not None or kind not in ("ParmVarDecl", "VarDecl", "FieldDecl"):
            continue
        declared = re.search(r"(\w+)? '([^']*)'", rest)
        if declared and re.search(r"__generic\b[^']*[*&]", declared[2]):
            yield f"{file}:{line}:1: error: '{declared[1] or ''}' points to no address space"


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
    for name in calls:
        if name in _reachable(calls, name):
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
