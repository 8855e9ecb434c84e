"""FlashAttention-2's package of that name, of which `rotary` is here."""
