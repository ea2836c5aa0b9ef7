"""Role, text and image become the exact prompt that the Nemotron embedding models were trained on.

Source: NVIDIA's `nemo_automodel` 0.7.0, `components/models/llama_nemotron_vl/processor.py`
(`passage_prefix + " " + "<image>" + " " + text`), and vLLM's `examples/pooling/embed/template/nemotron_embed_vl.jinja`.
"""

import re

from nemovlm.choices import Role
from nemovlm.models.base import Prompt

PROMPT_VERSION = 1
"""Changes with the prompts, because the vectors do."""

_SPECIAL = re.compile(r"<(?=(?:image|/?img|IMG_CONTEXT|/?(?:quad|ref|box)|\|[A-Za-z0-9_]+\|)>)")


def prompt(role: Role, text: str, *, image: bool) -> Prompt:
    """Return the prompt of an item: `query: {text}`, `passage: {text}` or `passage: <image> {text}`.

    An image alone has the empty text; the space after `<image>` stays, as in the reference.
    """
    clean = escape_special_tokens(text)
    return Prompt(prefix=f"{role}: ", text=f" {clean}" if image else clean)


def escape_special_tokens(text: str) -> str:
    """Take the meaning from special tokens that a text spells out, by a space after the bracket.

    A tokenizer would turn `<IMG_CONTEXT>` in somebody's text into the very token that stands for image features.
    `<image>`, `<img>`, `</img>`, `<IMG_CONTEXT>`, InternVL's `<quad>`, `<ref>` and `<box>` with their closers, and
    Llama's `<|...|>` are concerned; the reader of the text loses nothing. It is done on the text, not in the
    tokenizer, so that every engine, a remote one too, embeds the same string.
    """
    return _SPECIAL.sub("< ", text)
