"""The models of the family, as frozen rows: a new model is a new row.

Sources of the facts: the model cards, NVIDIA's NeMo-Retriever (`_set_p_max_length`: 8192 tokens for text, 10240
for text with an image), and mteb's `nvidia_nemotron_vl_models.py` (revision, dimension).
"""

from dataclasses import replace
from functools import partial

from nemovlm.models.card import ModelCard
from nemovlm.models.tiling import NEMOTRON_TILING

EMBED_VL_1B_V2 = "nvidia/llama-nemotron-embed-vl-1b-v2"

POCKET = "nemovlm/pocket"
"""The model that travels in this package."""

MAX_TEXT_TOKENS = 8192
MAX_TOKENS_WITH_IMAGE = 10240

VISION = "LlamaNemotronVLModel"
"""The architecture with vision, as `config.json` names it."""
TEXT = "LlamaBidirectionalModel"
"""The architecture that reads text only."""

_row = partial(ModelCard, dimension=2048, max_text_tokens=MAX_TEXT_TOKENS, max_tokens_with_image=MAX_TOKENS_WITH_IMAGE)

CARDS: tuple[ModelCard, ...] = (
    _row(
        id=EMBED_VL_1B_V2,
        architecture=VISION,
        revision="859e1f2dac29c56c37a5279cf55f53f3e74efc6b",
        vision=NEMOTRON_TILING,
        license="NVIDIA Open Model License",
        note="text, page images and both together; 1.7 B parameters",
    ),
    _row(
        id="nvidia/llama-3.2-nemoretriever-1b-vlm-embed-v1",
        architecture=VISION,
        vision=NEMOTRON_TILING,
        license="NVIDIA Community Model License",
        note="the first of the family; offered as a NIM",
    ),
    _row(
        id="nvidia/llama-nemotron-embed-1b-v2",
        architecture=TEXT,
        aliases=("nvidia/llama-3.2-nv-embedqa-1b-v2",),
        matryoshka=(384, 512, 768, 1024),
        license="NVIDIA Open Model License",
        note="text only; 1.2 B parameters",
    ),
    _row(
        id=POCKET,
        architecture=VISION,
        revision="3",
        on_hub=False,
        vision=replace(NEMOTRON_TILING, tile=256),
        license="Apache-2.0",
        note="travels in the package; reads print and finds words rather than meanings; for trials, demos and tests",
    ),
)
