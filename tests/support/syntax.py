"""Programs in languages whose compiler may not be here, as trees."""

from support.tools import require_module


def parse(language, path):
    """The root of a file's tree, which has no part that is not `language`."""
    tree_sitter = require_module("tree_sitter", "pip install --group test")
    grammar = require_module(f"tree_sitter_{language}", "pip install --group test")
    parser = tree_sitter.Parser(tree_sitter.Language(grammar.language()))
    root = parser.parse(path.read_bytes()).root_node
    wrong = [node for node in nodes(root) if node.is_error or node.is_missing]
    assert not wrong, f"{path.name}, line {wrong[0].start_point.row + 1}: not {language}"
    return root


def nodes(node, *types):
    """Those of a tree that are of one of these types, or all."""
    if not types or node.type in types:
        yield node
    for child in node.children:
        yield from nodes(child, *types)


def text(node):
    return node.text.decode()
