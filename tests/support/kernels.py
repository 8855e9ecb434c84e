"""The Metal kernels as the library embeds them."""

import sys

from support.source_tree import ROOT

sys.path.insert(0, str(ROOT / "metal"))
import embed

KERNELS = sorted(path.stem for path in (ROOT / "metal").glob("*.metal"))


def source_of(kernel):
    return "\n".join(embed.flatten(f"{kernel}.metal"))
