"""Make the pocket model: `python -m training.pocket fetch | train | export | evaluate`, from the root of the
repository."""

from __future__ import annotations

import argparse
import os
import random
from pathlib import Path

from . import corpus, evaluation, export, fitting, joining, reading, tokens, vocabulary
from .drawing import draw_tile
from .loop import Tiles

FITTED = 400  # tiles that the projector's second half is fitted on


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.pocket", description="Make the pocket model.")
    parser.add_argument("command", choices=("fetch", "train", "export", "evaluate"))
    parser.add_argument("--data", type=Path, default=Path("training/data"), help="where packages are unpacked")
    parser.add_argument("--run", type=Path, default=Path("training/run"), help="where training keeps its state and log")
    parser.add_argument("--out", type=Path, default=Path("backend/nemovlm/pocket"), help="the checkpoint's folder")
    parser.add_argument("--read", type=int, default=12_000, help="steps of learning to read, in all")
    parser.add_argument("--join", type=int, default=8_000, help="steps of learning with the projector, in all")
    parser.add_argument("--seams", type=int, default=6_000, help="steps of learning what pieces of words say together")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that draw")
    parser.add_argument("--pdfs", type=Path, help="a folder of PDFs to evaluate on, instead of printed pages")
    parser.add_argument("--part", choices=("dev", "test"), default="dev", help="which pages to evaluate on")
    chosen = parser.parse_args()
    if chosen.command == "fetch":
        corpus.fetch(chosen.data)
    elif chosen.command == "evaluate" and chosen.pdfs:
        evaluation.evaluate_pdfs(chosen.out, chosen.pdfs)
    elif chosen.command == "evaluate":
        evaluation.evaluate(chosen.out, chosen.data, chosen.part)
    else:
        trained = corpus.documents(chosen.data, "train")
        words = corpus.words_to_draw(trained)
        fonts = corpus.fonts(chosen.data, corpus.TRAINED_FONTS)
        if chosen.command == "train":
            space = fitting.space_of(vocabulary.words_of(trained).count, fonts)
            tiles = Tiles(words, fonts, chosen.seed, chosen.workers)
            reading.train(tiles, chosen.run, steps=chosen.read, seed=chosen.seed)
            joined = joining.Joined(reading.load(chosen.run), fitting.Projector())
            if not (chosen.run / joining.SAVED).exists():
                rng = random.Random(chosen.seed)
                drawn = [draw_tile(rng, words, fonts) for _ in range(FITTED)]
                joined.projector, explained = fitting.make_projector(joined.reader, space, drawn)
                print(f"the projector as it starts explains {explained:.1%} of the variance")
            joining.train(joined, space, tiles, chosen.run, steps=chosen.join)
        else:
            spelling = vocabulary.Vocabulary.of(trained)
            space = fitting.space_of(spelling.count, fonts)
            codes = tokens.codes_of(*tokens.learn(space, spelling, steps=chosen.seams), spelling)
            joined = joining.load(chosen.run)
            export.export(chosen.out, joined, spelling.stems, spelling.tokenizer, codes)


if __name__ == "__main__":
    main()
