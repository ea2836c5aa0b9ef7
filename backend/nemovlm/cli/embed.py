"""The command `embed`."""

from io import BytesIO
from pathlib import Path
from typing import Annotated

import typer

from nemovlm.cli.console import BaseUrl, Debug, Device, Engine, Model, command, open_embedder, print_json, write
from nemovlm.errors import ConfigurationError
from nemovlm.paths import readable_name


@command
def embed(
    texts: Annotated[list[str] | None, typer.Argument(help="Texts, each in quotes.", show_default=False)] = None,
    *,
    image: Annotated[list[Path] | None, typer.Option(help="An image file; may be given again.")] = None,
    query: Annotated[bool, typer.Option("--query", help="Embed texts as queries, not as passages.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write a NumPy file, (n, d) float32, instead of JSON.")] = None,
    model: Model = None,
    engine: Engine = None,
    base_url: BaseUrl = None,
    device: Device = None,
    debug: Debug = False,
) -> None:
    """Embed texts and images: one line of JSON each, in the order given, texts first."""
    import numpy as np

    from nemovlm.inputs import Passage, replace_surrogates

    texts, images = list(map(replace_surrogates, texts or [])), image or []
    if (not texts and not images) or (query and images):
        raise ConfigurationError("give texts, or images with --image; a query is always a text")
    embedder = open_embedder(model, engine=engine, base_url=base_url, device=device)
    names = list(map(readable_name, images))
    passages = [Passage(text=text) for text in texts]
    passages += [Passage(image=path, label=name) for path, name in zip(images, names, strict=True)]
    vectors = embedder.embed_queries(texts) if query else embedder.embed(passages)
    if out is not None:
        buffer = BytesIO()
        np.save(buffer, vectors)
        write(out, buffer.getvalue())
        return
    for name, vector in zip([*texts, *names], vectors, strict=True):
        print_json({"input": name, "embedding": [round(float(x), 8) for x in vector]})
