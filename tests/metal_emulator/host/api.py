"""The names of Metal that the emulator has: as listed with sources in api.csv, and as declared by headers."""

import csv
import re
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
HEADERS = sorted((HERE / "include" / "Metal").glob("*.h"))


class Name(NamedTuple):
    """One line of api.csv.

    `kind` is class, protocol, method, property, enum, constant, type, function or global; `owner` the class
    or protocol of a method or property, or the enumeration of a constant; `type` an Objective-C type encoding
    (of a method: its result and arguments, without receiver and selector); `value` a constant's value, what a
    class or protocol extends, or a property's attributes; `macos` the first release that has it, where the
    source tells.
    """

    kind: str
    owner: str
    name: str
    type: str
    value: str
    macos: str
    source: str

    @property
    def key(self):
        return self.kind, self.owner, self.name


def listed():
    with open(HERE / "api.csv", encoding="ascii", newline="") as lines:
        rows = csv.reader(line for line in lines if not line.startswith("#"))
        assert next(rows) == list(Name._fields)
        return [Name(*row) for row in rows]


def declared():
    """The key of each name that the headers declare, and of what classes and protocols extend."""
    keys = {}
    for header in HEADERS:
        text = re.sub(r"/\*.*?\*/|//[^\n]*", "", header.read_text(encoding="ascii"), flags=re.DOTALL)
        keys.update(_enumerations(text))
        keys.update(_containers(text))
        keys.update(_plain(text))
    return keys


def _enumerations(text):
    pattern = r"NS_(?:ENUM|OPTIONS)\(\w+, (\w+)\) \{(.*?)\};"
    for enumeration, body in re.findall(pattern, text, flags=re.DOTALL):
        yield ("enum", "", enumeration), ""
        for constant in re.findall(r"^\s*(\w+) =", body, flags=re.MULTILINE):
            yield ("constant", enumeration, constant), ""
    for constant in re.findall(r"#define (MTL\w+) \d+$", text, flags=re.MULTILINE):
        yield ("constant", "", constant), ""


def _containers(text):
    pattern = r"^@(protocol|interface) (\w+) ([^;{}]*?)(?:\s*\{[^}]*\})?$(.*?)^@end"
    for keyword, owner, extends, body in re.findall(pattern, text, flags=re.DOTALL | re.MULTILINE):
        kind = "protocol" if keyword == "protocol" else "class"
        yield (kind, "", owner), " ".join(re.findall(r"\w+", extends))
        for attributes, name in re.findall(r"@property\((.*?)\)[^;]*?(\w+);", body):
            yield ("property", owner, name), attributes
        for method in re.findall(r"^- \(.*?;", body, flags=re.DOTALL | re.MULTILINE):
            yield ("method", owner, _selector(method)), ""


def _selector(declaration):
    """The selector of a method declaration: what is left outside its types, attributes and argument names."""
    previous, text = None, declaration
    while text != previous:
        previous, text = text, re.sub(r"\([^()]*\)", " ", text)
    parts = re.findall(r"(\w+):", text)
    return "".join(f"{part}:" for part in parts) or re.findall(r"\w+", text)[0]


def _plain(text):
    types = r"^\} (MTL\w+);|^typedef [^{;]*?(MTL\w+);|^typedef void \(\^(MTL\w+)\)"
    for name in re.findall(types, text, flags=re.MULTILINE):
        yield ("type", "", "".join(name)), ""
    for name in re.findall(r"(?:^MTL_EXTERN|^static inline) [^;{]*?(MTL\w+)\(", text, flags=re.MULTILINE):
        yield ("function", "", name), ""
    for name in re.findall(r"^MTL_EXTERN NSErrorDomain const (\w+);", text, flags=re.MULTILINE):
        yield ("global", "", name), ""
