"""What operators take: each keyword of `mfa.attention` as torch's schemas have it, in one table."""

# Programs on disk call operators by this name: it changes whenever a schema does, or what one means.
NAMESPACE = "mfa_1"

ARRAY = "Tensor? {name}=None"

# The keywords that gradients go with. `drawn_seed` takes the place of `dropout_seed`: a number that a program
# draws anew from torch's generator each time it runs.
SCORES = {
    "layout": 'str layout="bshd"',
    "causal": "str? causal=None",
    "alignment": "str? alignment=None",
    "window": "SymInt[] window=[-1, -1]",
    "softmax_scale": "float? softmax_scale=None",
    "softcap": "float softcap=0.0",
    "mask": ARRAY,
    "bias": ARRAY,
    "alibi_slopes": ARRAY,
    "sinks": ARRAY,
    "dropout_p": "float dropout_p=0.0",
    "dropout_seed": "SymInt dropout_seed=0",
    "dropout_offset": "SymInt dropout_offset=0",
    "drawn_seed": ARRAY,
    "cu_seqlens_q": ARRAY,
    "cu_seqlens_k": ARRAY,
    "seqused_q": ARRAY,
    "seqused_k": ARRAY,
    "max_seqlen_q": "SymInt? max_seqlen_q=None",
    "max_seqlen_k": "SymInt? max_seqlen_k=None",
    "leftpad_k": ARRAY,
    "cache_batch_idx": ARRAY,
    "page_table": ARRAY,
    "attention_chunk": "SymInt attention_chunk=0",
    "intermediate_precision": "str? intermediate_precision=None",
}
FORWARD_ONLY = {
    "qv": ARRAY,
    "q_descale": ARRAY,
    "k_descale": ARRAY,
    "v_descale": ARRAY,
}
APPENDED = {
    "k_new": ARRAY,
    "v_new": ARRAY,
    "cu_seqlens_k_new": ARRAY,
    "rotary_cos": ARRAY,
    "rotary_sin": ARRAY,
    "rotary_positions": ARRAY,
    "rotary_interleaved": "bool rotary_interleaved=True",
}
# Those that make a call one into a cache.
APPENDED_ARRAYS = tuple(name for name, kind in APPENDED.items() if kind is ARRAY)
RESULT = {"out_dtype": "ScalarType? out_dtype=None"}
QUERY_KEY_VALUE = {"query": "Tensor query", "key": "Tensor key", "value": "Tensor value"}


class Signature:
    """An operator's schema, and the names of its arguments in order."""

    def __init__(self, name, types, returned):
        self.types, self.names = types, tuple(types)
        arguments = ", ".join(kind.format(name=argument) for argument, kind in types.items())
        self.schema = f"{name}({arguments}) -> {returned}"

    def given(self, arguments):
        """{name: argument} without those at the end that the dispatcher left out, being defaults."""
        return dict(zip(self.names, arguments, strict=False))


FORWARD = Signature("attention", QUERY_KEY_VALUE | SCORES | FORWARD_ONLY | RESULT, "(Tensor out, Tensor lse)")
APPEND = Signature(
    "attention_append",
    QUERY_KEY_VALUE
    | {"key": "Tensor(a!) key", "value": "Tensor(b!) value"}
    | SCORES
    | FORWARD_ONLY
    | APPENDED
    | RESULT,
    "(Tensor out, Tensor lse)",
)
BACKWARD = Signature(
    "attention_backward",
    {"dout": "Tensor dout"}
    | QUERY_KEY_VALUE
    | {"out": "Tensor out", "lse": "Tensor lse", "dlse": "Tensor? dlse", "wanted": "str wanted"}
    | SCORES,
    "(Tensor dq, Tensor dk, Tensor dv, Tensor dbias, Tensor dsinks)",
)
