"""Functions at which torch.compile ends a graph and begins the next, without importing its compiler."""

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def uncompiled(reason: str) -> Callable[[F], F]:
    """Have torch.compile call a function as it is, with all that it calls; `reason` is in its messages."""

    def decorate(function):
        alone = []

        @functools.wraps(function)
        def run(*arguments, **options):
            dynamo = sys.modules.get("torch._dynamo")
            if not hasattr(dynamo, "disable"):
                return function(*arguments, **options)  # who has not imported it yet compiles nothing
            if not alone:
                alone.append(dynamo.disable(function, reason=reason))
            return alone[0](*arguments, **options)

        run._torchdynamo_disable = True
        run._torchdynamo_disable_msg = reason
        return run

    return decorate
