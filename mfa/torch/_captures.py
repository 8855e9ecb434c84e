"""Tensors that a score_mod uses without being given them, and their gradients."""

import torch
from torch.overrides import TorchFunctionMode


def tensors_in(value):
    """Those among the arguments of a function of torch's."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))


class Captures(TorchFunctionMode):
    """Notes the tensors that require grad and that functions called inside of it work on.

    Without grad mode none of them is a result of another.
    """

    def __init__(self):
        super().__init__()
        self.tensors = []

    def __torch_function__(self, function, types, arguments=(), options=None):
        options = options or {}
        for tensor in tensors_in((arguments, options)):
            if tensor.requires_grad and not any(tensor is other for other in self.tensors):
                self.tensors.append(tensor)
        return function(*arguments, **options)

    def __enter__(self):
        self.no_grad = torch.no_grad()
        self.no_grad.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.no_grad.__exit__(*error)


class Substituted(TorchFunctionMode):
    """Has functions called inside of it work on leaves in place of `tensors`, and sums their gradients.

    What the tensors were made of is out of reach so: where one is made of another, autograd goes on from the
    one to the other by itself.
    """

    def __init__(self, tensors, values):
        super().__init__()
        self.tensors = tensors
        self.leaves = [value.detach().requires_grad_() for value in values]
        self.gradients = [None] * len(tensors)

    def __torch_function__(self, function, types, arguments=(), options=None):
        options = {name: self.substituted(value) for name, value in (options or {}).items()}
        return function(*map(self.substituted, arguments), **options)

    def substituted(self, value):
        if isinstance(value, torch.Tensor):
            pairs = zip(self.tensors, self.leaves, strict=True)
            return next((leaf for tensor, leaf in pairs if value is tensor), value)
        if type(value) in (tuple, list):
            return type(value)(map(self.substituted, value))
        return value

    def differentiate(self, results, gradient):
        """Add the gradients that `gradient`, of `results`, comes to."""
        if results.requires_grad:
            gradient = torch.from_numpy(gradient).to(results.dtype)
            self.add(torch.autograd.grad(results, self.leaves, gradient, allow_unused=True))

    def add(self, gradients):
        for i, gradient in enumerate(gradients):
            if gradient is not None:
                total = self.gradients[i]
                self.gradients[i] = gradient if total is None else total + gradient
