"""Rotary position embedding, by halves as in Llama: pairs of numbers turn with the position.

Sources: Su et al., "RoFormer" (2021); for `llama3`, transformers 5 `modeling_rope_utils._compute_llama3_parameters`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rotary:
    """How fast the pairs of a head turn."""

    width: int
    """Numbers of a head."""
    theta: float
    factor: float = 1.0
    """By how much slow pairs are slowed down further; 1 means that none is, and the next three do not matter."""
    low: float = 1.0
    high: float = 4.0
    original: int = 8192
    """Positions that the model was first trained with."""

    @classmethod
    def of(cls, config: Mapping[str, Any], width: int) -> Self:
        """Read `config`, as transformers 4 (`rope_theta`, `rope_scaling`) or 5 (`rope_parameters`) wrote it.

        Raises:
            ValueError: It is of another kind than `default` and `llama3`.
            KeyError: A parameter of `llama3` is missing.
            TypeError: One is of another type.
        """
        given = config.get("rope_parameters") or config.get("rope_scaling") or {}
        theta = float(given.get("rope_theta") or config.get("rope_theta") or 10_000.0)
        kind = given.get("rope_type") or given.get("type") or "default"
        if kind == "default":
            return cls(width, theta)
        if kind != "llama3":
            raise ValueError(f"rope_type is {kind!r}, and only 'default' and 'llama3' are known")
        return cls(
            width,
            theta,
            factor=float(given["factor"]),
            low=float(given["low_freq_factor"]),
            high=float(given["high_freq_factor"]),
            original=int(given["original_max_position_embeddings"]),
        )

    def frequencies(self) -> Tensor:
        """Return the radians that each pair turns by from one position to the next: (width / 2,) float32."""
        exponents = torch.arange(0, self.width, 2, dtype=torch.float32, device="cpu") / self.width
        frequencies = 1.0 / self.theta**exponents
        if self.factor == 1.0:
            return frequencies
        # Between the two wavelengths (positions per turn) the slowing sets in.
        wavelengths = 2 * math.pi / frequencies
        kept = ((self.original / wavelengths - self.low) / (self.high - self.low)).clamp(0, 1)
        return frequencies * (kept + (1 - kept) / self.factor)

    def table(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and sines (n, width / 2) float32 for `positions` (n,)."""
        angles = positions.float().unsqueeze(1) * self.frequencies().to(positions.device)
        return angles.cos(), angles.sin()


def rotate(states: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn heads (n, heads, width) by `cosines` and `sines` (n, width / 2); number i pairs with i + width / 2."""
    cosines, sines = cosines.unsqueeze(1), sines.unsqueeze(1)
    first, second = states.chunk(2, dim=-1)
    return torch.cat([first * cosines - second * sines, second * cosines + first * sines], dim=-1)
