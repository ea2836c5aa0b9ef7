"""Our module against a real vLLM engine: vectors recorded by `golden/make_with_vllm.py`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nemovlm import Embedder, Passage
from tests.support.checkpoints import case_image, write_text_checkpoint, write_vl_checkpoint

GOLDEN: list[dict[str, Any]] = json.loads((Path(__file__).parent / "golden" / "vllm.json").read_text())["checkpoints"]
WRITERS = {"vl": write_vl_checkpoint, "text": write_text_checkpoint}


@pytest.mark.parametrize("recorded", GOLDEN, ids=lambda c: f"{c['checkpoint']}-{'llama3' if c['kwargs'] else 'plain'}")
def test_vectors_are_those_of_vllm(recorded: dict[str, Any], tmp_path: Path) -> None:
    """Every query, text, image and image+text gets vLLM's vector, within 2e-6 in float32, in one mixed batch."""
    folder = WRITERS[recorded["checkpoint"]](tmp_path / "checkpoint", **recorded["kwargs"])
    queries = [case for case in recorded["cases"] if case["role"] == "query"]
    passages = [case for case in recorded["cases"] if case["role"] != "query"]
    with Embedder(folder) as embedder:
        got = [
            *embedder.embed_queries([case["text"] for case in queries]),
            *embedder.embed(
                [Passage(text=c["text"], image=case_image(c["image"]) if c["image"] else None) for c in passages]
            ),
        ]
    assert queries
    assert passages
    for case, vector in zip([*queries, *passages], got, strict=True):
        assert np.abs(vector - np.array(case["embedding"], np.float32)).max() <= 2e-6, case["prompt"]
