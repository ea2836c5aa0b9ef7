"""A family of models is one room: one that is like no other runs by being named, and nothing else knows of it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer

from nemovlm import Embedder, PageIndex, Passage
from nemovlm.errors import CheckpointError, InputTooLongError
from nemovlm.inputs import Vector
from nemovlm.models import families
from nemovlm.models.checkpoint import find_checkpoint
from tests.support import step_family
from tests.support.step_family import DECAY, STEP, WIDTH, patches, write_checkpoint

PAGE = Image.radial_gradient("L").resize((100, 150)).convert("RGB")


@pytest.fixture
def embedder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Embedder]:
    """A model of the family on the transformers engine."""
    monkeypatch.setattr(families, "FAMILIES", (*families.FAMILIES, step_family))
    with Embedder(write_checkpoint(tmp_path / "steps"), engine="transformers") as embedder:
        yield embedder


def plain(folder: Path, prompt: str, image: Image.Image | None = None) -> Vector:
    """Embed a prompt, `*` standing for its image, without anything of the package's."""
    from safetensors.numpy import load_file

    weights = load_file(folder / "model.safetensors")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    before, _, after = prompt.partition("*")
    states = [weights["embed"][tokenizer.encode(before).ids]]
    if image is not None:
        states.append(patches(image).astype(np.float32) / 255 @ weights["patch"])
    states.append(weights["embed"][tokenizer.encode(after, add_special_tokens=False).ids])
    last = np.zeros(WIDTH)
    for state in np.concatenate(states):
        last = DECAY * last + state
    return (last / np.linalg.norm(last)).astype(np.float32)


def test_prompt_pixels_and_pooling_are_the_familys(embedder: Embedder) -> None:
    """Queries, texts, images and both come out as the family says, compared with a plain loop."""
    folder = Path(embedder.settings.model or "")
    end = "\n[answer]<|end_of_text|>"
    vectors = embedder.embed(["a text", PAGE, Passage(text="a caption", image=PAGE)])
    expected = [
        plain(folder, f"[system] passage\n[user] a text{end}"),
        plain(folder, f"[system] passage\n[user] *{end}", PAGE),
        plain(folder, f"[system] passage\n[user] *a caption{end}", PAGE),
    ]
    assert np.abs(vectors - np.stack(expected)).max() < 1e-6
    query = plain(folder, f"[system] query\n[user] a text{end}")
    assert np.abs(embedder.embed_query("a text") - query).max() < 1e-6


def test_truncation_keeps_what_follows_the_text(embedder: Embedder) -> None:
    """Over the limit the text is cut, and neither the image nor the end of the prompt."""
    passage = Passage(text="word " * 300, image=PAGE)
    with pytest.raises(InputTooLongError) as refused:
        embedder.embed([passage])
    (vector,) = embedder.embed([passage], truncate="END")
    tokenizer = Tokenizer.from_file(str(Path(embedder.settings.model or "") / "tokenizer.json"))
    kept = "word " * 300
    ids = tokenizer.encode(kept, add_special_tokens=False).ids[: refused.value.limit - (refused.value.tokens - 1500)]
    text = tokenizer.decode(ids)
    assert kept.startswith(text)
    shorter = embedder.embed([Passage(text=text, image=PAGE)])
    assert np.abs(vector - shorter).max() < 1e-6


def test_the_space_is_the_familys(embedder: Embedder) -> None:
    """Its limit of pixels and the version of its prompts are part of the name of the vector space."""
    assert embedder.space.endswith(";dimensions=32;steps=6;prompts=7")
    assert embedder.modalities == ("text", "image", "text_image")
    assert embedder.tiling is None


def test_pages_are_rendered_at_its_size(embedder: Embedder, pdfs: Path, tmp_path: Path) -> None:
    """An index renders pages for the model's own steps, and finds an identical page first."""
    index = PageIndex(tmp_path / "db", embedder)
    assert index.add(pdfs / "staff-handbook.pdf", modality="image").embedded == 5
    assert embedder.vision
    page = next(iter(index.search(PAGE, k=1))).load(tiling=embedder.vision)
    assert page.image.size == embedder.vision.render_size(page.width, page.height)
    assert all(side % STEP == 0 for side in page.image.size)
    assert index.search(page.image, k=1)[0].score == pytest.approx(1, abs=1e-5)


def test_a_family_that_is_not_named_is_refused(tmp_path: Path) -> None:
    """Without its line in `FAMILIES` the checkpoint is one of an architecture that does not run here."""
    with pytest.raises(CheckpointError, match="architecture is StepModel; this package runs LlamaNemotronVLModel and"):
        find_checkpoint(str(write_checkpoint(tmp_path / "steps")))
