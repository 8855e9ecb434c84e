"""mfa and its peers, each behind the same few methods, each called in the fastest way that it offers.

Operands are laid out as the peer wants them before the clock starts. A peer that is not there, or that cannot
do a case, says why by raising ImportError or Unavailable.
"""

from benchmarks.contenders.apple_mlx import Mlx
from benchmarks.contenders.base import Call, Contender, Unavailable
from benchmarks.contenders.numpy_textbook import Numpy
from benchmarks.contenders.onnx_runtime import OnnxRuntime
from benchmarks.contenders.open_vino import OpenVino
from benchmarks.contenders.ours import Mfa
from benchmarks.contenders.torch_flex import FlexAttention
from benchmarks.contenders.torch_sdpa import Torch

OURS = Mfa.name
CONTENDERS = {kind.name: kind for kind in (Mfa, Torch, FlexAttention, OnnxRuntime, OpenVino, Mlx, Numpy)}

__all__ = ["CONTENDERS", "OURS", "Call", "Contender", "Unavailable"]
