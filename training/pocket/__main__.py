"""Make the pocket model: `python -m training.pocket fetch | train | export | evaluate`, from the root of the
repository."""

from __future__ import annotations

import argparse
import os
import random
from pathlib import Path

from . import corpus, evaluation, export, fitting, reading, vocabulary
from .drawing import draw_tile

FITTED = 400  # tiles that the projector's second half is fitted on


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.pocket", description="Make the pocket model.")
    parser.add_argument("command", choices=("fetch", "train", "export", "evaluate"))
    parser.add_argument("--data", type=Path, default=Path("training/data"), help="where packages are unpacked")
    parser.add_argument("--run", type=Path, default=Path("training/run"), help="where training keeps its state and log")
    parser.add_argument("--out", type=Path, default=Path("backend/nemovlm/pocket"), help="the checkpoint's folder")
    parser.add_argument(
        "--steps", type=int, default=12_000, help="steps of training in all, those done before included"
    )
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that draw")
    parser.add_argument("--part", choices=("dev", "test"), default="dev", help="which pages to evaluate on")
    chosen = parser.parse_args()
    if chosen.command == "fetch":
        corpus.fetch(chosen.data)
    elif chosen.command == "evaluate":
        evaluation.evaluate(chosen.out, chosen.data, chosen.part)
    else:
        trained = corpus.documents(chosen.data, "train")
        words = corpus.words_to_draw(trained)
        fonts = corpus.fonts(chosen.data, corpus.TRAINED_FONTS)
        if chosen.command == "train":
            reading.train(words, fonts, chosen.run, steps=chosen.steps, seed=chosen.seed, workers=chosen.workers)
            return
        spelling = vocabulary.Vocabulary.of(trained)
        space, runs = fitting.space_and_runs(spelling.count, spelling.tokenizer, len(spelling.stems), fonts)
        codes = fitting.token_codes(runs, spelling.stems, spelling.weights, spelling.frequency)
        reader = reading.load(chosen.run)
        rng = random.Random(chosen.seed)
        tiles = [draw_tile(rng, words, fonts) for _ in range(FITTED)]
        projector, explained = fitting.make_projector(reader, space, tiles)
        export.export(chosen.out, reader, projector, spelling.stems, spelling.tokenizer, codes)
        print(f"the projector explains {explained:.1%} of the variance -> {chosen.out}")


if __name__ == "__main__":
    main()
