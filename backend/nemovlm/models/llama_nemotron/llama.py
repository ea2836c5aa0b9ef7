"""A Llama without the causal mask: every token sees every other of its sequence.

Sources: transformers 5 `models/llama/modeling_llama.py`; vLLM 0.32 `model_executor/models/llama.py`, which fuses the
same projections. Shapes: n tokens of packed sequences, w the width of states.
"""

from collections.abc import Iterable, Iterator, Sequence

from torch import Tensor, nn
from torch.nn.functional import embedding, silu

from nemovlm.models.llama_nemotron.layers import FusedLinear, empty_embedding, in_blocks, joined
from nemovlm.models.llama_nemotron.packing import Packing
from nemovlm.models.llama_nemotron.rotary import rotate
from nemovlm.models.llama_nemotron.sizes import LlamaSizes


class Llama(nn.Module):
    """Token embeddings, layers, and a last norm."""

    def __init__(self, sizes: LlamaSizes) -> None:
        super().__init__()
        self._rotary = sizes.rotary
        self.embed_tokens = empty_embedding(sizes.vocabulary, sizes.width)
        self.layers = nn.ModuleList(_Layer(sizes) for _ in range(sizes.layers))
        self.norm = nn.RMSNorm(sizes.width, sizes.eps)

    def embed(self, ids: Tensor) -> Tensor:
        """Return the embeddings (n, w) of `ids` (n,), in the dtype that the layers compute in."""
        return embedding(ids, self.embed_tokens.weight).to(self.norm.weight.dtype)

    def forward(self, states: Tensor, packing: Packing) -> Tensor:
        """Run the layers over `states` (n, w), which are overwritten, and return the last ones (n, w)."""
        cosines, sines = self._rotary.table(packing.positions)
        turns = (cosines.to(states.dtype), sines.to(states.dtype))
        blocks = in_blocks(states)
        for layer in self.layers:
            layer(blocks, turns, packing)
        for block in blocks:
            block.copy_(self.norm(block))
        return states


class _Layer(nn.Module):
    def __init__(self, sizes: LlamaSizes) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(sizes.width, sizes.eps)
        self.self_attn = _Attention(sizes)
        self.post_attention_layernorm = nn.RMSNorm(sizes.width, sizes.eps)
        self.mlp = _Mlp(sizes)

    def forward(self, blocks: Sequence[Tensor], turns: tuple[Tensor, Tensor], packing: Packing) -> None:
        """Change the states, of which `blocks` are views."""
        normed = (self.input_layernorm(block) for block in blocks)
        for block, change in zip(blocks, self.self_attn(normed, turns, packing), strict=True):
            block.add_(change)
            block.add_(self.mlp(self.post_attention_layernorm(block)))


class _Attention(nn.Module):
    def __init__(self, sizes: LlamaSizes) -> None:
        super().__init__()
        self._heads = (sizes.heads, sizes.kv_heads)
        q, kv = (heads * sizes.head_width for heads in self._heads)
        self.qkv_proj = FusedLinear(sizes.width, {"q_proj": q, "k_proj": kv, "v_proj": kv}, bias=False)
        self.o_proj = nn.Linear(q, sizes.width, bias=False)

    def forward(self, blocks: Iterable[Tensor], turns: tuple[Tensor, Tensor], packing: Packing) -> Iterator[Tensor]:
        heads, kv_heads = self._heads
        qkv = joined([self.qkv_proj(block) for block in blocks])
        qkv = qkv.view(len(qkv), heads + 2 * kv_heads, -1)  # (n, heads, head width)
        turned = rotate(qkv[:, : heads + kv_heads], *turns)
        seen = packing.attend(turned[:, :heads], turned[:, heads:], qkv[:, heads + kv_heads :])
        return map(self.o_proj, in_blocks(seen))


class _Mlp(nn.Module):
    def __init__(self, sizes: LlamaSizes) -> None:
        super().__init__()
        parts = {"gate_proj": sizes.hidden, "up_proj": sizes.hidden}
        self.gate_up_proj = FusedLinear(sizes.width, parts, bias=False)
        self.down_proj = nn.Linear(sizes.hidden, sizes.width, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(states).chunk(2, dim=1)
        output: Tensor = self.down_proj(silu(gate, inplace=True).mul_(up))
        return output
