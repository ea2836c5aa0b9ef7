"""The vision tower: SigLIP over square tiles, without its pooling head.

Source: transformers 5 `models/siglip/modeling_siglip.py` (SigLIP 1's code, also for the weights of SigLIP 2). Shapes: t
tiles of p * p patches, n patches in all, w the width of states.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nemovlm.models.llama_nemotron.layers import FusedLinear, empty_embedding, gelu_tanh, joined, rows_at_once
from nemovlm.models.llama_nemotron.packing import Packing
from nemovlm.models.llama_nemotron.sizes import SiglipSizes

_MEAN, _STD = 0.5, 0.5  # for all three channels (`SIGLIP_MEAN`, `SIGLIP_STD` in vLLM's processor)


class Siglip(nn.Module):
    """Patches become states, which see each other within their tile."""

    def __init__(self, sizes: SiglipSizes) -> None:
        super().__init__()
        self._patches = sizes.side**2
        self.embeddings = _Embeddings(sizes)
        self.encoder = _Encoder(sizes)
        self.post_layernorm = nn.LayerNorm(sizes.width, sizes.eps)

    def forward(self, tiles: Tensor) -> Tensor:
        """Return states (t, p * p, w) for tiles (t, side, side, 3) uint8."""
        blocks = torch.split(tiles, max(1, rows_at_once(tiles) // self._patches))
        return joined([self.post_layernorm(self.encoder(self.embeddings(block))) for block in blocks])


class _Embeddings(nn.Module):
    def __init__(self, sizes: SiglipSizes) -> None:
        super().__init__()
        self._side, self._patch = sizes.side, sizes.patch
        self.patch_embedding = PatchLinear(sizes.patch, sizes.width)
        self.position_embedding = empty_embedding(sizes.side**2, sizes.width)

    def forward(self, tiles: Tensor) -> Tensor:
        p, patch = self._side, self._patch
        pixels = tiles.view(-1, p, patch, p, patch, 3).permute(0, 1, 3, 5, 2, 4)  # (t, p, p, 3, patch, patch)
        pixels = pixels.reshape(-1, p * p, 3 * patch**2)
        positions = self.position_embedding.weight
        states: Tensor = self.patch_embedding(((pixels.float() / 255 - _MEAN) / _STD).to(positions.dtype))
        states += positions
        return states


class PatchLinear(nn.Linear):
    """The convolution over patches, whose kernels do not overlap: a linear layer of the pixels (3 * patch * patch)."""

    def __init__(self, patch: int, width: int) -> None:
        super().__init__(3 * patch**2, width)
        self.kernel = (width, 3, patch, patch)


class _Encoder(nn.Module):
    def __init__(self, sizes: SiglipSizes) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(sizes, layer) for layer in range(sizes.layers))

    def forward(self, states: Tensor) -> Tensor:
        rows = states.flatten(0, 1)  # (n, w), the same numbers
        packing = Packing.even(len(states), states.shape[1], str(states.device))
        for layer in self.layers:
            layer(rows, packing)
        return states


class _Layer(nn.Module):
    def __init__(self, sizes: SiglipSizes, layer: int) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(sizes.width, sizes.eps)
        self.self_attn = _Shifts(sizes, sizes.shifts[layer]) if sizes.shifts else _Attention(sizes)
        self.layer_norm2 = nn.LayerNorm(sizes.width, sizes.eps)
        self.mlp = _Mlp(sizes)

    def forward(self, states: Tensor, packing: Packing) -> None:
        states += self.self_attn(self.layer_norm1(states), packing)
        states += self.mlp(self.layer_norm2(states))


class _Attention(nn.Module):
    def __init__(self, sizes: SiglipSizes) -> None:
        super().__init__()
        self._heads = sizes.heads
        self.qkv_proj = FusedLinear(sizes.width, dict.fromkeys(("q_proj", "k_proj", "v_proj"), sizes.width), bias=True)
        self.out_proj = nn.Linear(sizes.width, sizes.width)

    def forward(self, states: Tensor, packing: Packing) -> Tensor:
        qkv = self.qkv_proj(states).view(len(states), 3, self._heads, -1)  # (n, 3, heads, head width)
        attended: Tensor = self.out_proj(packing.attend(*qkv.unbind(1)))
        return attended


class _Shifts(nn.Module):
    """Attention in which each head looks at the patch at a fixed offset, whatever it shows: the values of that patch.

    The softmax of such heads is 1 there and 0 elsewhere, so that their queries and keys need not be computed.
    """

    unread = ("q_proj", "k_proj")

    def __init__(self, sizes: SiglipSizes, shifts: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self._side, self._shifts = sizes.side, shifts
        self.v_proj = nn.Linear(sizes.width, sizes.width)
        self.out_proj = nn.Linear(sizes.width, sizes.width)

    def forward(self, states: Tensor, packing: Packing) -> Tensor:
        grid = self.v_proj(states).view(len(packing.lengths), self._side, self._side, len(self._shifts), -1)
        seen = [
            head.roll((-down, -right), (1, 2)) for head, (right, down) in zip(grid.unbind(3), self._shifts, strict=True)
        ]
        attended: Tensor = self.out_proj(torch.cat(seen, dim=3).view_as(states))
        return attended


class _Mlp(nn.Module):
    def __init__(self, sizes: SiglipSizes) -> None:
        super().__init__()
        self.fc1 = nn.Linear(sizes.width, sizes.hidden)
        self.fc2 = nn.Linear(sizes.hidden, sizes.width)

    def forward(self, states: Tensor) -> Tensor:
        output: Tensor = self.fc2(gelu_tanh(self.fc1(states)))
        return output
