"""Measurements that need a process of their own: peak memory, memory protection, huge sparse arrays."""

import json
import mmap
import os
import subprocess
import sys

import numpy as np


def run_probe(name, *, timeout=300, **arguments):
    """Result of the function `name` of this module, called in a new process."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.run(
        [sys.executable, "-m", "support.probe", name, json.dumps(arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert process.returncode == 0, f"probe {name} ended with {process.returncode}:\n{process.stderr}"
    return json.loads(process.stdout)


def peak_memory():
    """The most memory that this process has held, in bytes."""
    if sys.platform == "linux":
        with open("/proc/self/status", encoding="ascii") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
    import resource  # absent on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def extra_memory(*, length, head_dim, dtype, window, rows, **context_options):
    """Peak memory beyond operands and output, and what a few rows came to beside the oracle."""
    from support import checks

    import mfa

    rng = np.random.default_rng(1)
    arrays = [rng.standard_normal((1, 1, length, head_dim), np.float32) for _ in range(3)]
    query, key, value = (x.astype(dtype, copy=False) for x in arrays)
    out = np.zeros((1, 1, length, head_dim), query.dtype)
    out[...] = np.nan
    with mfa.Context(**context_options) as context:
        small = [x[:, :, :100] for x in (query, key, value)]
        mfa.attention(*small, layout="bhsd", context=context)
        before = peak_memory()
        mfa.attention(query, key, value, out=out, window=tuple(window), layout="bhsd", context=context)
        extra = peak_memory() - before
    for row in rows:
        left, right = (length if reach < 0 else reach for reach in window)
        keys = slice(max(row - left, 0), row + right + 1)
        one = slice(row, row + 1)
        reference = checks.expected(query[:, :, one], key[:, :, keys], value[:, :, keys], layout="bhsd")
        checks.tolerance.assert_within(out[:, :, one], reference.out, reference.out_bound)
    return {"extra": extra}


def extra_memory_backward(*, length, head_dim, dtype, window, keys, **context_options):
    """Peak memory that a backward call takes, gradients included; some rows and keys are held against the
    oracle. A row sees itself and the `window` keys before it."""
    from support import checks

    import mfa

    rng = np.random.default_rng(1)
    arrays = [rng.standard_normal((1, 1, length, head_dim), np.float32) for _ in range(4)]
    dout, query, key, value = (x.astype(dtype, copy=False) for x in arrays)
    options = {"window": (window, 0), "layout": "bhsd"}
    with mfa.Context(**context_options) as context:
        small = [x[:, :, :100] for x in (dout, query, key, value)]
        checks.backward(context, *small, **options)
        out, logsumexp = mfa.attention(query, key, value, return_lse=True, context=context, **options)
        before = peak_memory()
        g = mfa.attention_backward(dout, query, key, value, out, logsumexp, context=context, **options)
        extra = peak_memory() - before
    for position in keys:
        # All rows that see this key, and all keys that they see.
        rows, seen = slice(position, position + window + 1), slice(position - window, position + window + 1)
        reference = checks.expected_gradients(
            dout[:, :, rows], query[:, :, rows], key[:, :, seen], value[:, :, seen], **options
        )
        for name, at, place in (("dq", position, 0), ("dk", position, window), ("dv", position, window)):
            exact, bound = (getattr(x, name)[:, :, place] for x in (reference.exact, reference.bound))
            checks.tolerance.assert_within(getattr(g, name)[:, :, at], exact, bound, what=name)
    return {"extra": extra}


def guard_pages(**context_options):
    """Operands that end, or start, at a page which may not be touched: a stray access ends the process."""
    import ctypes

    from support import checks

    import mfa

    libc = ctypes.CDLL(None, use_errno=True)
    page = mmap.PAGESIZE
    prot_none = 0
    kept = []

    def guarded(array, at_end):
        pages = -(-array.nbytes // page) + 2
        memory = mmap.mmap(-1, pages * page)
        kept.append(memory)
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        for guard in (start, start + (pages - 1) * page):
            if libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(page), prot_none):
                raise OSError(ctypes.get_errno(), "mprotect")
        offset = (pages - 1) * page - array.nbytes if at_end else page
        view = np.frombuffer(memory, array.dtype, array.size, offset).reshape(array.shape)
        view[...] = array
        return view

    def run(context, query, key, value, out, dout, **options):
        options = {"layout": "bhsd", "context": context, **options}
        _, logsumexp = mfa.attention(query, key, value, out=out, return_lse=True, **options)
        mfa.attention_backward(dout, query, key, value, out, logsumexp, **options)

    rng = np.random.default_rng(2)
    calls = 0
    with mfa.Context(**context_options) as context:
        for dtype in checks.DTYPES:
            for query_length, key_length in ((1, 1), (1, 1027), (3, 33), (13, 70), (50, 129), (2, 2049)):
                for head_dim, value_dim in ((1, 1), (7, 33), (40, 17), (64, 64), (65, 129)):
                    arrays = checks.operands(
                        rng,
                        heads=2,
                        kv_heads=1,
                        query_length=query_length,
                        key_length=key_length,
                        head_dim=head_dim,
                        value_dim=value_dim,
                        dtype=dtype,
                        layout="bhsd",
                    )
                    mask = rng.random((query_length, key_length)) < 0.8
                    bias = rng.standard_normal((query_length, key_length)).astype(dtype)
                    empty = np.zeros((1, 2, query_length, value_dim), dtype)
                    dout = rng.standard_normal(empty.shape).astype(dtype)
                    for at_end in (True, False):
                        placed = [guarded(x, at_end) for x in (*arrays, empty, dout, mask, bias)]
                        *rows, mask_view, bias_view = placed
                        run(context, *rows)
                        run(context, *rows, mask=mask_view, bias=bias_view, dropout_p=0.1)
                        calls += 2
    return {"calls": calls}


def _sparse(elements):
    """float16 zeros that take memory only where they are touched.

    From here on the process may not map much more: who copies them all fails, instead of filling the machine.
    """
    import resource  # absent on Windows

    resource.setrlimit(resource.RLIMIT_AS, (12 * 2**30, resource.RLIM_INFINITY))
    memory = mmap.mmap(
        -1, elements * 2, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    )
    return np.frombuffer(memory, np.float16)


def over_two_to_the_31_keys(**context_options):
    """A key array of more than 2**31 elements, of which a window shows the far end."""
    from support import checks

    import mfa

    rng = np.random.default_rng(3)
    key_length, head_dim = 2**25 + 1000, 64
    query, near_key, near_value = checks.operands(
        rng, query_length=16, key_length=300, head_dim=head_dim, dtype=checks.FLOAT16, layout="bhsd"
    )
    key = _sparse(key_length * head_dim).reshape(1, 1, key_length, head_dim)
    value = np.lib.stride_tricks.as_strided(near_value, (1, 1, key_length, head_dim), (0, 0, 0, 2))
    key[:, :, -300:] = near_key
    assert key.size > 2**31
    with mfa.Context(**context_options) as context:
        checks_value = np.broadcast_to(near_value[:, :, :1], near_value.shape)
        reference = checks.expected(query, near_key, checks_value, window=(200, 0), layout="bhsd")
        result = mfa.attention(
            query, key, value, window=(200, 0), return_lse=True, layout="bhsd", context=context
        )
        checks.assert_matches(result, reference, layout="bhsd")
    return {"peak": peak_memory()}


def batches_two_to_the_31_elements_apart(**context_options):
    """Operands and output interleaved in one array, their second batch past element 2**31, and the gradients
    of that call."""
    from support import checks

    import mfa

    rng = np.random.default_rng(4)
    shape = (2, 2, 40, 32)  # batch, heads, rows, head_dim
    size = int(np.prod(shape[1:]))
    batch_stride = 2**31 + 64
    memory = _sparse(batch_stride + 5 * size)

    def slot(index):
        strides = np.array([batch_stride, shape[2] * shape[3], shape[3], 1]) * 2
        return np.lib.stride_tricks.as_strided(memory[index * size :], shape, strides)

    query, key, value, out, dout = (slot(index) for index in range(5))
    for array in (query, key, value, dout):
        array[...] = rng.standard_normal(shape).astype(np.float16)
    options = {"causal": True, "layout": "bhsd"}
    reference = checks.expected(query, key, value, **options)
    with mfa.Context(**context_options) as context:
        result = mfa.attention(query, key, value, out=out, return_lse=True, context=context, **options)
        g = mfa.attention_backward(dout, query, key, value, *result, context=context, **options)
    checks.assert_matches(result, reference, layout="bhsd")
    checks.expected_gradients(dout, query, key, value, **options).assert_holds(g)
    return {"peak": peak_memory()}


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](**json.loads(sys.argv[2]))))
