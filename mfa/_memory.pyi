from typing import Any

import numpy

def as_ndarray(array: Any, name: str) -> numpy.ndarray: ...
