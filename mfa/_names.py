"""What the library's messages call arguments, and what callers call them."""

import re

NAMES = {
    "additive_mask": "mask or bias",
    "append.key": "k_new",
    "append.rotary_cos": "rotary_cos",
    "append.rotary_positions": "rotary_positions",
    "append.rotary_sin": "rotary_sin",
    "append.starts": "cu_seqlens_k_new",
    "append.value": "v_new",
    "blocks.block_mask": "sparsity",
    "blocks.full_kv_indices": "block_mask.full_kv_indices",
    "blocks.full_kv_num_blocks": "block_mask.full_kv_num_blocks",
    "blocks.kv_indices": "block_mask.kv_indices",
    "blocks.kv_num_blocks": "block_mask.kv_num_blocks",
    "blocks.mask_indices": "block_mask",
    "blocks.masks": "block_mask",
    "bool_mask": "mask",
    "delta": "delta",
    "dlogsumexp": "dlse",
    "input": "x",
    "key": "key",
    "key_quantization.mean": "key.mean",
    "key_quantization.rows": "key.rows",
    "key_quantization.scales": "key.scales",
    "key_quantization.zero_points": "key.zero_points",
    "pages.page_table": "page_table",
    "quantization.mean": "mean",
    "quantization.scales": "scale",
    "quantization.zero_points": "zero_point",
    "query": "query",
    "query_value": "qv",
    "scales.key": "k_descale",
    "scales.query": "q_descale",
    "scales.value": "v_descale",
    "sequences.key_batches": "cache_batch_idx",
    "sequences.key_lengths": "seqused_k",
    "sequences.key_starts": "cu_seqlens_k",
    "sequences.left_padding": "leftpad_k",
    "sequences.most_keys": "max_seqlen_k",
    "sequences.most_queries": "max_seqlen_q",
    "sequences.query_lengths": "seqused_q",
    "sequences.query_starts": "cu_seqlens_q",
    "value": "value",
    "value_quantization.rows": "value.rows",
    "value_quantization.scales": "value.scales",
    "value_quantization.zero_points": "value.zero_points",
}

IN_MESSAGES = re.compile(rf"(?<![\w.])(?:{'|'.join(map(re.escape, NAMES))})(?![\w.])")
VALUE = re.compile(r"^([\w.]+(?:\[[\d, ]+\])?) (?:is|has) (?=-?(?:\d|nan|inf))")


PLACE = re.compile(r"((?:quantization\.(?:scales|zero_points)|input)\[)(\d+), (\d+), (\d+), (\d+)\]")


def renamed(message, names, layout=None, ndim=4):
    """`message` of the library with the caller's names, each value after its argument as everywhere here.

    With a `layout`, places in scales and zero points are those of arrays with `ndim` axes in that order.
    """

    def of_caller(match):
        name, dot, part = NAMES[match[0]].partition(".")
        return names.get(name, name) + dot + part

    def place(match):
        batch, heads, rows, column = match.groups()[1:]
        axes = (batch, rows, heads, column) if layout == "bshd" else (batch, heads, rows, column)
        return f"{match[1]}{', '.join(axes[4 - ndim :])}]"

    if layout is not None:
        message = PLACE.sub(place, message)
    return VALUE.sub(r"\1: ", IN_MESSAGES.sub(of_caller, message))
