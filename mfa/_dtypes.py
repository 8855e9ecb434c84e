"""What error messages say of an array's dtype."""

import numpy

from mfa._messages import brief
from mfa._tensors import is_tensor

# What arrays are made of where nobody says otherwise, and what they can be converted to.
CONVERTED = {"float64": "float32", "int64": "int32"}


def wrong_dtype(name, array, dtype, expected):
    """The message about an array of the caller's whose `dtype` is none of the `expected` ones."""
    own = str(dtype).removeprefix("torch.")
    message = f"{name}: dtype {brief(own)}, expected {expected}"
    if isinstance(dtype, numpy.dtype) and not dtype.isnative:
        return f"{message} in native byte order"
    target = CONVERTED.get(own)
    if target is None or target not in expected:
        return message
    if isinstance(array, numpy.ndarray):
        return f"{message}, as {name}.astype(numpy.{target}) has"
    return f"{message}, as {name}.to(torch.{target}) has" if is_tensor(array) else message
