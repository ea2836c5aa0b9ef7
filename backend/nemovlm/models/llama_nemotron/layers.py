"""Linear layers, and how many rows of states they compute at once."""

import sys
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

# Rows that a CPU computes at once: what comes in between stays in its caches, and memory that was given back is taken
# again instead of new pages.
_ROWS = 256
# Numbers of a weight that are looked at before all are, and the share of them, and of the whole, that makes trimming
# worth it.
_SAMPLE = 4096
_WORTH_IT = 0.7


def rows_at_once(states: Tensor) -> int:
    """Return how many rows (tokens, patches) are best computed at once where `states` are."""
    return _ROWS if states.device.type == "cpu" else sys.maxsize


def in_blocks(states: Tensor) -> Sequence[Tensor]:
    """Cut `states` (n, w) into views of so many rows."""
    return torch.split(states, min(rows_at_once(states), len(states)))


def joined(blocks: Sequence[Tensor]) -> Tensor:
    """Put blocks together again."""
    return blocks[0] if len(blocks) == 1 else torch.cat(list(blocks))


class FusedLinear(nn.Linear):
    """Linear layers of one input, computed as one: `parts` are their outputs, by their names in checkpoints."""

    def __init__(self, inputs: int, parts: Mapping[str, int], *, bias: bool) -> None:
        super().__init__(inputs, sum(parts.values()), bias=bias)
        self.parts = dict(parts)


def empty_embedding(count: int, width: int) -> nn.Embedding:
    """Return an embedding (count, width) of which the numbers are yet to come.

    `nn.Embedding` draws some, for which torch loads its compiler where there is no memory for them: a second's work.
    """
    empty: nn.Embedding = nn.Embedding.from_pretrained(torch.empty(count, width))  # type: ignore[no-untyped-call]
    return empty


def trim(model: nn.Module) -> None:
    """Leave out the zeros of linear layers that have many: so has the language model of the pocket model.

    The layers compute the same without the rows and columns of their weights that hold zeros alone.
    """
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Linear) and _is_sparse(child.weight):
                trimmed = _TrimmedLinear(child)
                if trimmed.weight.numel() < _WORTH_IT * child.weight.numel():
                    setattr(parent, name, trimmed)


class _TrimmedLinear(nn.Module):
    rows: Tensor
    columns: Tensor

    def __init__(self, whole: nn.Linear) -> None:
        super().__init__()
        rows, columns = (whole.weight.any(axis).nonzero().flatten() for axis in (1, 0))
        self.register_buffer("rows", rows)
        self.register_buffer("columns", columns)
        self.weight = nn.Parameter(whole.weight[rows][:, columns], requires_grad=False)
        self.bias = whole.bias
        self.outputs = whole.out_features

    def forward(self, states: Tensor) -> Tensor:
        shape = (*states.shape[:-1], self.outputs)
        output = states.new_zeros(shape) if self.bias is None else self.bias.expand(shape).clone()
        if len(self.columns) < states.shape[-1]:
            states = states.index_select(-1, self.columns)
        some = linear(states, self.weight)
        return output.index_add_(-1, self.rows, some)


def _is_sparse(weight: Tensor) -> bool:
    numbers = weight.flatten()
    sample = numbers[:: max(1, len(numbers) // _SAMPLE)]
    return int(sample.count_nonzero()) < _WORTH_IT * len(sample)
