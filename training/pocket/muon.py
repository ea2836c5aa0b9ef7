"""Muon in single precision. torch's own (`torch.optim.Muon`) works in bfloat16, which takes a processor without
instructions for it a hundred times as long.

Source: Keller Jordan's Muon (https://github.com/KellerJordan/Muon), with the step length of `match_rms_adamw`
(Moonshot's "Muon is scalable for LLM training", 2025), as in torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonal(matrices: Tensor, iterations: int = 4) -> Tensor:
    """About U V' for each of the matrices U S V' (n, rows, columns), by Newton and Schulz."""
    a, b, c = _COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.transpose(1, 2) if tall else matrices
    x = x / x.flatten(1).norm(dim=1).clamp(min=1e-7).view(-1, 1, 1)
    for _ in range(iterations):
        gram = x @ x.transpose(1, 2)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.transpose(1, 2) if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum whose update has all singular values near one; for matrices only."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            updates: defaultdict[torch.Size, list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                buffer = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
                buffer.lerp_(weight.grad, 1 - group["momentum"])
                updates[weight.shape].append((weight, weight.grad.lerp(buffer, group["momentum"])))
            for shape, pairs in updates.items():
                length = group["lr"] * 0.2 * max(shape) ** 0.5
                for (weight, _), update in zip(pairs, orthogonal(torch.stack([u for _, u in pairs])), strict=True):
                    weight.sub_(update, alpha=length)
