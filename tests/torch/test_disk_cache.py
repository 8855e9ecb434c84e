"""Code compiled to disk where mfa replaces SDPA is not found where it does not, nor the other way round."""

import json
import os
import subprocess
import sys

import numpy as np
from support.source_tree import ROOT

PROGRAM = """
import json, sys
import torch
import torch.nn.functional as F
from torch._dynamo.utils import counters

torch.set_num_threads(1)
if sys.argv[1] == "mfa":
    import mfa.torch
    mfa.torch.replace_sdpa(strict=True)
tensors = [x.requires_grad_() for x in torch.linspace(-1, 1, 3 * 2 * 6 * 8).reshape(3, 1, 2, 6, 8).unbind()]


@torch.compile(fullgraph=True)
def attend(query, key, value):
    return F.scaled_dot_product_attention(query, key, value)


with torch.profiler.profile() as profile:
    result = attend(*tensors)
    gradients = torch.autograd.grad(result, tensors, torch.ones_like(result))
names = {event.name for event in profile.events()}
print(json.dumps({
    "results": [x.tolist() for x in (result, *gradients)],
    "mfa": sorted(name for name in names if name.startswith("mfa_")),
    "torch": sorted(name for name in names if "flash_attention_for_cpu" in name),
    "found": counters["aot_autograd"]["autograd_cache_hit"],
}))
"""


def compiled_with(who, cache):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, who],
        env=os.environ
        | {
            "TORCHINDUCTOR_CACHE_DIR": str(cache),
            "PYTHONPATH": str(ROOT),
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_each_finds_its_own_code_and_not_that_of_the_other(tmp_path):
    first, other, again = (compiled_with(who, tmp_path) for who in ("mfa", "torch", "mfa"))
    assert [one["found"] for one in (first, other, again)] == [0, 0, 1]
    assert again["results"] == first["results"]
    np.testing.assert_allclose(np.ravel(other["results"]), np.ravel(first["results"]), atol=1e-5)
    for one in (first, again):
        assert len(one["mfa"]) == 2, "a forward operator and a backward one"
        assert not one["torch"]
    assert not other["mfa"]
    assert other["torch"]
