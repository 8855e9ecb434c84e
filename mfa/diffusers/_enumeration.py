"""Members of an enumeration that somebody else has closed."""


def with_member(enumeration, name, value):
    """The member of that name and value of an enumeration of str, which gets it if it has none.

    The enum module has no such way, so this writes what its class body would have written, and then asks the
    enumeration for the member in each way that there is.
    """
    if name not in enumeration.__members__:
        member = str.__new__(enumeration, value)
        member._name_, member._value_ = name, value
        member.__objclass__ = enumeration
        member._sort_order_ = len(enumeration._member_names_)
        enumeration._member_names_.append(name)
        enumeration._member_map_[name] = member
        enumeration._value2member_map_[value] = member
        type.__setattr__(enumeration, name, member)
    member = enumeration.__members__[name]
    found = (enumeration(value), enumeration[name], getattr(enumeration, name))
    if any(each is not member for each in found) or member not in list(enumeration):
        raise RuntimeError(f"{enumeration.__name__} has no member {name} = {value!r} after it was added")
    return member
