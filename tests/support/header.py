"""What mfa.h declares, for the bindings that repeat it or call it by name."""

import re

from support.source_tree import ROOT


def _text():
    text = (ROOT / "include/mfa.h").read_text(encoding="utf-8")
    return re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)


def _declared(declaration):
    """(type, name) of a parameter or field, without const."""
    words = re.sub(r"\bconst\b", "", declaration).strip()
    name = re.search(r"(\w+)\s*(\[\d+\])?$", words)
    return " ".join((words[: name.start()] + (f" {name[2] or ''}")).replace("*", " *").split()), name[1]


def functions():
    """By name, the type that is returned and those of the parameters."""
    found = re.findall(r"^MFA_API ([^;(]*?)\b(mfa_\w+)\(([^)]*)\);", _text(), flags=re.MULTILINE)
    return {
        name: (
            _declared(f"{returned.strip()} {name}")[0],
            [_declared(parameter)[0] for parameter in parameters.split(",") if parameter.strip() != "void"],
        )
        for returned, name, parameters in found
    }


def structs():
    """By name, the fields in order as (type, name); of an array, the type of all of it."""
    found = re.findall(r"typedef struct \w+ \{(.*?)\} (\w+);", _text(), flags=re.DOTALL)
    fields = {}
    for body, name in found:
        fields[name] = []
        for declaration in filter(str.strip, body.split(";")):
            first, *others = declaration.split(",")
            fields[name] += [
                _declared(first),
                *(_declared(f"{_declared(first)[0]} {other}") for other in others),
            ]
    return fields


def initial_values():
    """By name of the struct, the values that its MFA_..._INIT gives to the fields."""
    macros = re.findall(r"#define MFA_(\w+)_INIT\s*\\?\s*\{(.*?)\}\s*\n\n", _text(), flags=re.DOTALL)
    values = {}
    for name, body in macros:
        body = re.sub(r"\{[^}]*\}", "0", body.replace("\\", " "))
        values[f"mfa_{name.lower()}_t"] = [value.strip() for value in body.split(",")]
    return values


def constants():
    """By name, as numbers."""
    found = re.findall(r"#define (MFA_[A-Z0-9_]+) \(?(-?\d+)u?\)?\s*$", _text(), flags=re.MULTILINE)
    return {name: int(value) for name, value in found}
