"""Which keys the rows of a mask see, as keywords of mfa.attention."""

import functools

import torch
from transformers.masking_utils import sdpa_mask

from mfa.transformers._call import Call, packed_call


class Visible:
    """What a mask (B, 1, N, S) shows: a pattern of positions, and keys that are not there.

    Attributes
    ----------
    pattern : Pattern
    shape : (int, int, int, int)
    shift : int
        Row i is at the position of key ``i + shift``.
    present : Tensor (B, S) of bool or None
        Which keys are no padding; None is all.
    device : torch.device
    """

    def __init__(self, pattern, request):
        """`request` has the arguments of Transformers' `sdpa_mask`."""
        self.pattern = pattern
        rows, keys, offset = request["q_length"], request["kv_length"], int(request["kv_offset"])
        # Of a static cache it is a tensor that counts on.
        self._request = request | {"q_offset": int(request["q_offset"]), "kv_offset": offset}
        self.shape = (request["batch_size"], 1, rows, keys)
        self.shift = self._request["q_offset"] - offset
        self.device = torch.device(request["device"])
        self.present = None
        if request["attention_mask"] is not None:
            self.present = request["attention_mask"][:, offset : offset + keys]
            missing = keys - self.present.shape[1]
            if missing > 0:
                self.present = torch.nn.functional.pad(self.present, (0, missing))
            if self.present.all():
                self.present = None

    def dense(self):
        """The mask itself."""
        mask = sdpa_mask(**self._request, allow_is_causal_skip=False, allow_is_bidirectional_skip=False)
        return mask.contiguous()

    @functools.cached_property
    def call(self):
        """The Call that this comes to, None if it can only be said by the mask itself."""
        return self._packed() if self.pattern.sequences is not None else self._padded(self._lengths)

    @functools.cached_property
    def call_beside_bias(self):
        """As `call`, for an additive mask (N, S) beside it, whose columns lengths would move."""
        return None if self.pattern.sequences is not None else self._padded(self._columns)

    def _padded(self, say):
        """A Call for a batch of sequences; `say` tells it of padding."""
        pattern, shift = self.pattern, self.shift
        _, _, rows, keys = self.shape
        right = 0 if pattern.causal else pattern.right
        last = shift + rows - 1
        stop = keys if right < 0 else max(0, min(keys, last + right + 1))
        start = 0 if pattern.left < 0 else min(max(0, shift - pattern.left), stop)
        if pattern.chunk and (start or self._request["kv_offset"]):
            return None  # chunks are counted from a key that is not among these
        # What reaches all that there is hides nothing.
        left = -1 if pattern.left >= last - start else pattern.left
        right = -1 if pattern.causal or right >= stop - 1 - shift else right
        windows = self._windows(left, right, start, stop)
        if not windows:
            return None
        present = None if self.present is None else self.present[:, start:stop]
        padding, alignment = {}, next(iter(windows))
        if present is not None and not present.all():
            padding, alignment = say(present, windows)
        keywords = {"window": windows[alignment]}
        if pattern.chunk:
            keywords["attention_chunk"] = pattern.chunk
            # Chunks begin where a sequence does.
            first = padding.get("leftpad_k", torch.zeros_like(pattern.chunk_starts))
            if (first != pattern.chunk_starts).any():
                return None
        if alignment is not None:
            keywords["alignment"] = alignment
        if pattern.causal:
            keywords["causal"] = alignment
        return Call(keywords | padding, start, stop)

    def _windows(self, left, right, start, stop):
        """By alignment, those of them in which the pattern can be said, the window."""
        is_counted = self.pattern.causal or self.pattern.chunk
        if not is_counted and (left, right) == (-1, -1):
            return {None: (-1, -1)}
        windows = {}
        for alignment, offset in (("top-left", 0), ("bottom-right", stop - start - self.shape[2])):
            # Counted from another key than the row's own, it is longer on one side and shorter on the other.
            ahead = offset - (self.shift - start)
            if ahead and is_counted:
                continue
            window = (left if left < 0 else left + ahead, right if right < 0 else right - ahead)
            if (left < 0 or window[0] >= 0) and (right < 0 or window[1] >= 0):
                windows[alignment] = window
        return windows

    def _lengths(self, present, alignments):
        """Keywords for padding at the ends of sequences, and the alignment that these go with."""
        keys = present.shape[1]
        counts = present.sum(-1)
        first = present.byte().argmax(-1)  # the first of the largest
        columns = torch.arange(keys, device=present.device)
        run = (columns >= first[:, None]) & (columns < (first + counts)[:, None])
        if torch.equal(run, present):
            is_empty = counts == 0
            for alignment in alignments:
                # Both count from an end of what is there, which has to be the end of what was given.
                if alignment != "bottom-right" and ((first == 0) | is_empty).all():
                    return {"seqused_k": self._list(counts)}, alignment
                if alignment != "top-left" and ((first + counts == keys) | is_empty).all():
                    return {"leftpad_k": self._list(torch.where(is_empty, keys, first))}, alignment
                if alignment is None:
                    return {
                        "seqused_k": self._list(first + counts),
                        "leftpad_k": self._list(first),
                    }, alignment
        return self._columns(present, alignments)

    def _list(self, numbers):
        return numbers.to(torch.int32).expand(self.shape[0]).contiguous()

    def _columns(self, present, alignments):
        return {"mask": present[:, None, None, :]}, next(iter(alignments))

    def _packed(self):
        """A Call for sequences that lie one behind the other in each row of the batch."""
        pattern = self.pattern
        batch, _, rows, keys = self.shape
        if self.present is not None or self.shift or rows != keys:
            return None
        if pattern.chunk and pattern.chunk_starts.any():
            return None
        numbers = pattern.sequences.expand(batch, rows)
        begins = torch.ones((batch, rows), dtype=torch.bool, device=numbers.device)
        begins[:, 1:] = numbers[:, 1:] != numbers[:, :-1]
        starts = begins.flatten().nonzero().flatten().to(torch.int32)
        starts = torch.nn.functional.pad(starts, (0, 1), value=batch * rows)
        return packed_call(pattern, starts, starts)
