"""Sequences of different lengths, packed one after the other without padding.

Nothing is computed for tokens that are none. What goes token by token (most of the work) does not see sequences at all;
attention and pooling go over runs of sequences of one length, which are dense.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from nemovlm.models.llama_nemotron.layers import joined


@dataclass(frozen=True)
class Packing:
    """How `lengths` of sequences stand one after the other in a tensor (n, ...), n being their sum.

    Equal lengths must be neighbors to share a run: sort them.
    """

    lengths: tuple[int, ...]
    device: str

    @classmethod
    def even(cls, count: int, length: int, device: str) -> "Packing":
        """Pack `count` sequences of one length."""
        return cls((length,) * count, device)

    @cached_property
    def runs(self) -> list[tuple[int, int]]:
        """(sequences, length) of each run."""
        return [(len(list(run)), length) for length, run in groupby(self.lengths)]

    @cached_property
    def positions(self) -> Tensor:
        """The position of each token in its sequence: (n,) int32."""
        positions = [torch.arange(length, dtype=torch.int32).repeat(count) for count, length in self.runs]
        return torch.cat(positions).to(self.device)

    @cached_property
    def _bounds(self) -> Tensor:
        """Where sequences begin, and the last one ends: (sequences + 1,) int32."""
        ends = torch.tensor(self.lengths).cumsum(0)
        return torch.cat([torch.zeros(1), ends]).to(torch.int32).to(self.device)

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Let every token see all of its sequence: queries (n, h, w), keys and values (n, k, w) -> (n, h * w).

        Where h is a multiple of k, heads share keys and values.
        """
        if len(self.runs) > 1 and (varlen := _varlen(query.device, query.dtype)) is not None:
            # Earlier torch knows no shared heads here.
            key, value = (part.repeat_interleave(query.shape[1] // part.shape[1], 1) for part in (key, value))
            longest = max(self.lengths)
            attended: Tensor = varlen(query, key, value, self._bounds, self._bounds, longest, longest)
            return attended.flatten(1)
        shared = query.shape[1] != key.shape[1]
        parts = []
        for (count, length), *run in self._split(query, key, value):
            q, k, v = (part.view(count, length, *part.shape[1:]).transpose(1, 2) for part in run)
            seen = scaled_dot_product_attention(q, k, v, enable_gqa=shared)
            parts.append(seen.transpose(1, 2).reshape(count * length, -1))
        return joined(parts)

    def mean(self, states: Tensor) -> Tensor:
        """Average over the tokens of each sequence: (n, w) -> (sequences, w) float32."""
        return joined([part.view(*run, -1).mean(1, dtype=torch.float32) for run, part in self._split(states)])

    def _split(self, *tensors: Tensor) -> Iterator[tuple[Any, ...]]:
        """Yield (sequences, length) of each run, and its part of each tensor."""
        sizes = [count * length for count, length in self.runs]
        return zip(self.runs, *(torch.split(tensor, sizes) for tensor in tensors), strict=True)


@cache
def _varlen(device: torch.device, dtype: torch.dtype) -> Any:
    """Return what attends over packed sequences: flash attention, for half precision on Ampere GPUs and later."""
    if device.type != "cuda" or dtype == torch.float32 or torch.cuda.get_device_capability(device) < (8, 0):
        return None
    try:
        from torch.nn.attention.varlen import varlen_attn  # since torch 2.10; the import takes a second
    except ImportError:
        return None
    return varlen_attn
