"""Items per second of the transformers engine through `Embedder.embed`, against a plain loop and the module of before.

The plain loop is the one that one writes first: the same torch module, tokenizer and tiles, one item at a time, no
batches and no threads of its own. The module of before is built of transformers' parts, and pads its batches
(`tests/support/reference.py`); it runs in the same engine. Three kinds of work: short texts, pages as images, and both
mixed (half of the texts, half of the pages, every other page with a few words). The models: a random one of about 23
million weights, and the one that travels in the package. All vectors must agree. Loading and rendering do not count.
Needs reportlab.

    python benchmarks/engine.py
    python benchmarks/engine.py --device cuda --texts 4096 --pages 256
"""

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import numpy as np
import torch
from common import in_turns, machine, ratios, sample_pdf, seconds, show, spread
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer

from nemovlm import Embedder, Passage, iter_pages
from nemovlm.inputs import Vector
from nemovlm.models.base import ModelInput
from nemovlm.models.checkpoint import find_checkpoint
from nemovlm.models.llama_nemotron import local
from nemovlm.models.llama_nemotron.cards import POCKET
from nemovlm.models.llama_nemotron.module import LlamaNemotronVLModel
from nemovlm.models.llama_nemotron.packing import Packing
from nemovlm.models.llama_nemotron.weights import load_model
from nemovlm.models.tiling import Tiling

LARGER_LLM = {
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 4096,
}
LARGER_VIT = {
    "hidden_size": 192,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "image_size": 256,  # with patches of 16: 64 tokens a tile
    "patch_size": 16,
}
TOLERANCE = 1e-5
CAPTION = 100  # characters


class PlainLoop:
    """Embeds one item after the other."""

    def __init__(self, folder: Path, device: str, dtype: torch.dtype = torch.float32) -> None:
        model = load_model(folder, device=device, dtype=dtype)
        assert isinstance(model, LlamaNemotronVLModel)
        tiling = find_checkpoint(str(folder)).card.tiling
        assert tiling is not None
        self._model, self.tiling, self._device = model, tiling, device
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._image_token = self._tokenizer.token_to_id("<IMG_CONTEXT>")

    def embed(self, items: Sequence[Passage]) -> Vector:
        """Return the vectors (n, d)."""
        vectors = np.stack([self._embed_one(item) for item in items])
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    @torch.inference_mode()
    def _embed_one(self, item: Passage) -> Vector:
        if item.image is None:
            ids, images = self._ids(f"passage: {item.text}"), None
        else:
            assert isinstance(item.image, Image.Image)
            tiles = torch.from_numpy(self.tiling.cut(item.image))
            features = self._model.image_features(tiles.to(self._device))
            image = f"<img>{'<IMG_CONTEXT>' * len(features)}</img>"
            ids = self._ids(f"passage: {image} {item.text or ''}")
            images = features, (ids == self._image_token).nonzero().flatten()
        vector: Vector = self._model(ids, Packing((len(ids),), self._device), images)[0].cpu().numpy()
        return vector

    def _ids(self, prompt: str) -> torch.Tensor:
        return torch.tensor(self._tokenizer.encode(prompt).ids, device=self._device)


@contextmanager
def module_of_before(folder: Path, **settings: Any) -> Iterator[Embedder]:
    """Open an embedder that runs the module built of transformers' parts."""
    from tests.support.reference import load_reference

    class Before(local.LocalLlamaNemotron):
        def __init__(self, folder: Path, card: Any, *, max_tokens: int | None, device: str, dtype: str) -> None:
            self._preprocess = local.Preprocessor(folder, card, max_tokens)
            self._reference = load_reference(folder, device=device, dtype=getattr(torch, dtype))

        def embed(self, batch: Sequence[ModelInput]) -> Vector:
            return self._reference.embed(batch, self.image_token)

    with Embedder(folder, **settings) as embedder:
        with mock.patch.object(local, "LocalLlamaNemotron", Before):
            embedder.embed_query("load it")
        yield embedder


def write_checkpoint(
    folder: Path,
    llm: dict[str, int] = LARGER_LLM,
    vit: dict[str, int] = LARGER_VIT,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write the tests' tiny checkpoint, then put a larger random model in the place of its own."""
    from tests.support.checkpoints import write_vl_checkpoint

    config_file = write_vl_checkpoint(folder) / "config.json"
    config = json.loads(config_file.read_text(encoding="utf-8"))
    config["llm_config"] |= llm
    config["vision_config"] |= vit
    config["force_image_size"] = vit["image_size"]
    config_file.write_text(json.dumps(config), encoding="utf-8")
    from tests.support.reference import Reference

    torch.manual_seed(0)
    with torch.device(device):
        model = Reference(config).to(dtype)
    weights = {name: weight.cpu().contiguous() for name, weight in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    return folder


def workloads(pdf: Path, tiling: Tiling, texts: int, pages: int) -> dict[str, list[Passage]]:
    """Return the items of each kind of work: lines of the sample library, its pages, and a mixture."""
    drawn = list(iter_pages(pdf, tiling=tiling))
    lines = [line for page in drawn for line in page.text.splitlines() if len(line) >= 20]
    short = [Passage(text=line) for line in islice(cycle(lines), texts)]
    images = [page.passage("image") for page in islice(cycle(drawn), pages)]
    captioned = [Passage(text=page.text[:CAPTION], image=page.image) for page in drawn[: pages // 4]]
    mixed = [*short[: texts // 2], *images[: pages // 4], *captioned]
    random.Random(0).shuffle(mixed)
    return {"short texts": short, "pages": images, "mixed": mixed}


def measure(name: str, items: list[Passage], ways: dict[str, Any], rounds: int) -> list[str]:
    """Return a row of the table: `ways` are the loop, the module of before, and the engine."""
    loop, before, ours = (way.embed(items) for way in ways.values())  # warms up as well
    difference = float(max(np.abs(ours - loop).max(), np.abs(ours - before).max()))
    if difference > TOLERANCE:
        raise SystemExit(f"{name}: not comparable, the vectors differ by {difference:.1e}")
    timed = {way: partial(seconds, partial(engine.embed, items)) for way, engine in ways.items()}
    of_loop, of_before, of_ours = ([len(items) / time for time in run] for run in in_turns(timed, rounds).values())
    return [
        f"{len(items)} {name}" if name != "mixed" else f"{len(items)} items, mixed",
        spread(of_loop, 1),
        spread(of_before, 1),
        spread(of_ours, 1),
        spread(ratios(of_ours, of_loop)),
        spread(ratios(of_ours, of_before)),
        f"{difference:.0e}",
    ]


def compare(title: str, folder: Path, pdf: Path, given: argparse.Namespace) -> None:
    """Print the table of a model."""
    loop = PlainLoop(folder, given.device)
    settings = {"engine": "transformers", "device": given.device, "dtype": "float32"}
    with module_of_before(folder, **settings) as before, Embedder(folder, **settings) as embedder:
        ways = {"loop": loop, "before": before, "ours": embedder}
        works = workloads(pdf, loop.tiling, given.texts, given.pages)
        rows = [measure(work, items, ways, given.rounds) for work, items in works.items()]
    head = [
        "",
        "plain loop, items/s",
        "module of before, items/s",
        "`Embedder.embed`, items/s",
        "of the loop",
        "of before",
    ]
    device = torch.cuda.get_device_name(given.device) if given.device.startswith("cuda") else given.device
    show(
        f"{title}, {given.rounds} rounds",
        [[*head, "largest difference"], *rows],
        ["median (min..max)", f"device: {device}, float32", machine("torch", "transformers", "tokenizers")],
    )


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--pages", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    with TemporaryDirectory() as name:
        pdf = sample_pdf(Path(name) / "samples.pdf", given.pages)
        compare("A random model", write_checkpoint(Path(name) / "random-vl"), pdf, given)
        compare("The pocket model", find_checkpoint(POCKET).fetch(), pdf, given)


if __name__ == "__main__":
    main()
