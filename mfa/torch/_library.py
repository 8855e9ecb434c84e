"""The operators by name, without what they do."""

import torch

from mfa.torch._schema import APPEND, BACKWARD, FORWARD, NAMESPACE

LIBRARY = torch.library.Library(NAMESPACE, "DEF")
# Results lie as queries do, so that a compiler must leave these the strides that it said they have.
TAGS = (torch.Tag.needs_exact_strides, torch.Tag.pt2_compliant_tag)
for signature in (FORWARD, APPEND, BACKWARD):
    LIBRARY.define(signature.schema, tags=TAGS)

OPERATORS = getattr(torch.ops, NAMESPACE)
attention = OPERATORS.attention.default
attention_append = OPERATORS.attention_append.default
attention_backward = OPERATORS.attention_backward.default
