"""Prints the names that a Metal source takes from the language and its library: names.py FOLDER CLANG.

FOLDER holds `source` and `request` as for compile_module.py. A line for each name that the source uses and
does not declare, keywords of C++ aside; with its namespace where the source says it. And the pragmas.
"""

import re
import sys

import library
from command import SHIM
from compile_module import Request
from lint import NODE, PLACE, syntax_tree
from module_source import lint_source

# Of C++, those that Metal shares with it.
KEYWORDS = """
bool break case char class const constexpr continue default do else enum false float for if inline int long
namespace operator return short signed sizeof static static_assert struct switch template true typedef
typename unsigned using void while
"""
NAME = re.compile(r"(?<!\w)[A-Za-z_]\w*(?:\s*::\s*[A-Za-z_]\w*)*")
PRAGMA = re.compile(r"^[ \t]*#[ \t]*pragma[ \t]+(.*?)[ \t]*$", re.MULTILINE)
DIRECTIVE_OR_STRING = re.compile(r'^[ \t]*#.*$|"(?:\\.|[^"\\\n])*"', re.MULTILINE)


def used(text):
    for pragma in PRAGMA.findall(text):
        yield f"#pragma {pragma}"
    for name in NAME.findall(DIRECTIVE_OR_STRING.sub(" ", text)):
        yield re.sub(r"\s", "", name)


def declared(clang, text):
    """Words of the tree's declarations, types and places aside: names, and what clang says of them."""
    tree = syntax_tree(clang, lint_source([library.transformed(text)], {}))
    file = ""  # a node says it only where it differs from that of the node before
    for line in tree.splitlines():
        node = NODE.match(line)
        if not node:
            continue
        said = re.sub(r"'[^']*'", "", node["rest"])
        files = [name for name, _ in PLACE.findall(f"{node['place']} {said}") if name != "line"]
        file = files[-1] if files else file
        if node["kind"].endswith("Decl") and not file.startswith(SHIM):
            yield from re.findall(r"\b[A-Za-z_]\w*", said)


def main(folder, clang):
    request = Request(folder)
    (text,) = library.preprocess(folder, clang, request, [request.macros])
    own = {*KEYWORDS.split(), *declared(clang, text)}
    (text,) = library.preprocess(folder, clang, request, [request.macros], predefined_names=False)
    for name in sorted(set(used(text))):
        if name.partition("::")[0] not in own:
            print(name)


if __name__ == "__main__":
    main(*sys.argv[1:])
