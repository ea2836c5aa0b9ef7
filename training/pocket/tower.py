"""The vision tower, in a form that trains fast, and its translation into SigLIP's weights.

Each attention head of the tower looks at one fixed neighbour: one patch to the left, two below, and so on (`TAPS`).
That makes the tower a convolutional net in a transformer's clothes, which is what reading needs and what little
training can teach. While it trains, a head is a shift of the grid of patches (`torch.roll`) and costs nothing. In the
exported weights the same is done by attention: part of every patch's state is fixed, and holds its position as waves
cos(wx), sin(wx), cos(wy), sin(wy) of the odd frequencies w = 2 pi k / 32 with k = 1, 3, ... 15. Two different columns
(or rows) then have perpendicular waves, so that a query turned by the tap's offset matches exactly one key, on a grid
that is round like a torus.

What a patch shows changes the length of its state, and with it what the norm before the attention leaves of the
waves; a short state would be seen from everywhere. So the fixed part also holds a constant and a zero. The norm
subtracts the same mean from all: minus what it makes of the zero, waves and constant are pure again, but for one
factor. And with so much of the constant taken off that only the right key's logit is positive, no factor makes
another key win."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .drawing import PATCH, SIDE

HEADS = 6
HEAD_DIM = 32
WIDTH = HEADS * HEAD_DIM
WAVES = SIDE  # a cosine and a sine for 8 frequencies, each way
FIXED = WAVES + 2  # numbers of a state that no layer changes: the waves, a constant, and a zero
CONTENT = WIDTH - FIXED
LOUDNESS = 5.0  # of the waves and the constant
MLP = 768
SHARPNESS = 1500.0  # of the logits, before the norms of query and key divide them: up to about 15 each
EPSILON = 1e-6

HALFWAY = 12.0  # between the match of two equal places without the last wave, 15 or more, and of any others, 9 or less

#: For each layer, where its heads look: (columns to the right, rows down).
TAPS = (
    ((-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (1, 1)),
    ((-1, 0), (1, 0), (0, -1), (0, 1), (-2, 0), (2, 0)),
    ((-1, 0), (1, 0), (0, -1), (0, 1), (-2, 0), (2, 0)),
    ((-1, 0), (1, 0), (-2, 0), (2, 0), (-3, 0), (3, 0)),
)


def waves(columns: Tensor, rows: Tensor) -> Tensor:
    """Of columns and rows of the same shape: (..., 32)."""
    frequency = 2 * math.pi / SIDE * torch.arange(1, SIDE // 2, 2)
    across, down = columns.unsqueeze(-1) * frequency, rows.unsqueeze(-1) * frequency
    return torch.cat([across.cos(), across.sin(), down.cos(), down.sin()], dim=-1)


def turn(columns: int, rows: int) -> Tensor:
    """The matrix (32, 32) that turns the waves of a place into those of the place so many columns and rows on."""
    frequency = 2 * math.pi / SIDE * torch.arange(1, SIDE // 2, 2)
    n = len(frequency)
    matrix = torch.zeros(4 * n, 4 * n)
    for start, angle in ((0, columns * frequency), (2 * n, rows * frequency)):
        cosine, sine = torch.diag(angle.cos()), torch.diag(angle.sin())
        matrix[start : start + n, start : start + n] = cosine
        matrix[start : start + n, start + n : start + 2 * n] = -sine
        matrix[start + n : start + 2 * n, start : start + n] = sine
        matrix[start + n : start + 2 * n, start + n : start + 2 * n] = cosine
    return matrix


class Layer(nn.Module):
    """SigLIP's encoder layer, with shifts for attention; what it adds leaves the fixed part alone."""

    def __init__(self, taps: tuple[tuple[int, int], ...]) -> None:
        super().__init__()
        self.taps = taps
        self.value = nn.Linear(WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, CONTENT)
        self.fc1 = nn.Linear(WIDTH, MLP)
        self.fc2 = nn.Linear(MLP, CONTENT)

    def forward(self, content: Tensor, fixed: Tensor) -> Tensor:
        state = F.layer_norm(torch.cat([content, fixed], -1), (WIDTH,), eps=EPSILON)
        values = self.value(state).split(HEAD_DIM, dim=-1)
        seen = [value.roll((-down, -right), (1, 2)) for value, (right, down) in zip(values, self.taps, strict=True)]
        content = content + self.out(torch.cat(seen, -1))
        state = F.layer_norm(torch.cat([content, fixed], -1), (WIDTH,), eps=EPSILON)
        return content + self.fc2(F.gelu(self.fc1(state), approximate="tanh"))


class Tower(nn.Module):
    """(b, 256, 256) pixels from -1 to 1 become states (b, 32, 32, 192)."""

    fixed: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Linear(PATCH * PATCH, CONTENT)
        self.layers = nn.ModuleList(Layer(taps) for taps in TAPS)
        rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
        constant = torch.tensor([1.0, 0.0]).expand(SIDE, SIDE, 2)
        fixed = LOUDNESS * torch.cat([waves(columns, rows), constant], dim=-1)
        self.register_buffer("fixed", fixed, persistent=False)
        for layer in self.layers:
            for linear in (layer.out, layer.fc2):
                nn.init.zeros_(linear.bias)
                nn.init.normal_(linear.weight, std=0.5 / math.sqrt(linear.in_features))

    def forward(self, pixels: Tensor) -> Tensor:
        b = len(pixels)
        patches = pixels.view(b, SIDE, PATCH, SIDE, PATCH).transpose(2, 3).reshape(b, SIDE, SIDE, PATCH * PATCH)
        content = self.patch(patches)
        fixed = self.fixed.expand(b, -1, -1, -1)
        for layer in self.layers:
            content = layer(content, fixed)
        return F.layer_norm(torch.cat([content, fixed], -1), (WIDTH,), eps=EPSILON)


def siglip_weights(tower: Tower) -> dict[str, Tensor]:
    """The same tower as the state dict of transformers' `SiglipVisionModel`, without its pooling head."""
    weights: dict[str, Tensor] = {}

    def linear(name: str, weight: Tensor, bias: Tensor) -> None:
        weights[f"{name}.weight"], weights[f"{name}.bias"] = weight.clone(), bias.clone()

    def norm(name: str) -> None:
        linear(name, torch.ones(WIDTH), torch.zeros(WIDTH))

    def padded(layer: nn.Linear) -> tuple[Tensor, Tensor]:
        return F.pad(layer.weight, (0, 0, 0, FIXED)), F.pad(layer.bias, (0, FIXED))

    kernel, bias = padded(tower.patch)
    linear("embeddings.patch_embedding", kernel.view(WIDTH, 1, PATCH, PATCH).expand(-1, 3, -1, -1) / 3, bias)
    table = torch.zeros(SIDE * SIDE, WIDTH)
    table[:, CONTENT:] = tower.fixed.view(-1, FIXED)
    weights["embeddings.position_embedding.weight"] = table
    for index, layer in enumerate(tower.layers):
        name = f"encoder.layers.{index}"
        query, key = torch.zeros(HEADS, HEAD_DIM, WIDTH), torch.zeros(HEADS, HEAD_DIM, WIDTH)
        for head, (right, down) in enumerate(layer.taps):
            query[head, :, CONTENT:] = _pure(SHARPNESS * turn(right, down), -SHARPNESS * HALFWAY)
            key[head, :, CONTENT:] = _pure(torch.eye(WAVES), 1.0)
        norm(f"{name}.layer_norm1")
        linear(f"{name}.self_attn.q_proj", query.flatten(0, 1), torch.zeros(WIDTH))
        linear(f"{name}.self_attn.k_proj", key.flatten(0, 1), torch.zeros(WIDTH))
        linear(f"{name}.self_attn.v_proj", layer.value.weight, layer.value.bias)
        linear(f"{name}.self_attn.out_proj", *padded(layer.out))
        norm(f"{name}.layer_norm2")
        linear(f"{name}.mlp.fc1", layer.fc1.weight, layer.fc1.bias)
        linear(f"{name}.mlp.fc2", *padded(layer.fc2))
    norm("post_layernorm")
    return {name: tensor.detach() for name, tensor in weights.items()}


def _pure(waves: Tensor, constant: float) -> Tensor:
    """A head's map (32, 34) of the fixed part of a state: all waves but the last, so mapped, and for it the constant,
    so often; from each the zero is taken."""
    head = torch.zeros(HEAD_DIM, FIXED)
    head[:-1, :WAVES] = waves[:-1]
    head[-1, WAVES] = constant
    head[:, -1] = -head.sum(1)
    return head


def siglip_config() -> dict[str, object]:
    return {
        "model_type": "siglip_vision_model",
        "hidden_size": WIDTH,
        "intermediate_size": MLP,
        "num_hidden_layers": len(TAPS),
        "num_attention_heads": HEADS,
        "num_channels": 3,
        "image_size": SIDE * PATCH,
        "patch_size": PATCH,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": EPSILON,
        "attention_dropout": 0.0,
        "attention_shifts": TAPS,  # the package computes these instead of the attention; others do not know the field
    }
