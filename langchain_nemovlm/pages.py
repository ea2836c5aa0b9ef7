"""A page in LangChain: how its image is named in `page_content`, and how it is found again.

A store hands nothing but `page_content` to the embeddings. So a page whose image is to be embedded ends in the name of
that image, `![report.pdf page 3](pages/0f3c...e1.png)`, which people, chat windows and models can read too.
"""

import base64
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from langchain_core.documents import Document
from langchain_core.messages import HumanMessage
from langchain_core.messages.content import ContentBlock, ImageContentBlock, create_image_block, create_text_block

from nemovlm.errors import InputError
from nemovlm.images import encode_png, for_chat, image_in, read_image
from nemovlm.inputs import Modality, Passage
from nemovlm.paths import local_path, path_of
from nemovlm.pdf import Page, Password, iter_pages

_log = logging.getLogger("nemovlm")

_IN_A_LABEL = str.maketrans("[]\n", "() ")
# The image's name is a digest, so that nothing else in the folder is ever opened; and what has a scheme is no path.
_IMAGE_AT_THE_END = re.compile(r"^!\[([^\n\[\]]*)\]\([^\n:()]*?([0-9a-f]{64}\.png)\)\Z", re.MULTILINE)
# What a text splitter leaves of it, which cuts pages or joins them.
_ELSEWHERE = re.compile(r"!\[[^\n\[\]]*(?:\](?:\([^\n:()]*)?)?\Z|[0-9a-f]{8,64}\.png\)")


def markdown(page: Page, file: Path) -> str:
    """Return the text of a page, and after it the name of its image file as Markdown has it."""
    name = page.name.translate(_IN_A_LABEL)
    return f"{page.text}\n\n![{name}]({quote(os.fsencode(file.as_posix()))})".lstrip()


def passage_of(content: str, folder: Path, modality: Modality) -> Passage | None:
    """Return what to embed of a `markdown` page whose image lies in `folder`, or None for any other text.

    A name that a text splitter has cut, or that stands elsewhere than at the end, is said in the log.
    """
    content = content.rstrip()
    if not (match := _IMAGE_AT_THE_END.search(content)):
        if _ELSEWHERE.search(content):
            _log.warning(
                "a page was split or joined: its image is not named at its end, and it is embedded as text: %r",
                content[-60:],
            )
        return None
    text = content[: match.start()].rstrip()
    return Passage(
        text=None if modality == "image" else text,
        image=None if modality == "text" else folder / match[2],
        label=match[1],
    )


def page_to_content_block(document: Document, *, password: Password = None) -> ImageContentBlock:
    """Return the image of a page as a content block for a chat message.

    It is the file `image_path` of the metadata if there is one, else `page_content` if that is an image in base64, as
    `add_images` of some stores leaves it, and else it is rendered again from `file_path` (or `source`) and `page`.

    Args:
        document: A page, as it was loaded or retrieved.
        password: For an encrypted PDF (or several, to be tried) that has to be rendered.

    Raises:
        InputError: The document is no page.
        ImageError: Its image cannot be read.
        PdfError: Its PDF cannot be read.
    """
    image = for_chat(_image_file(document, password))
    return create_image_block(base64=base64.b64encode(image.data).decode("ascii"), mime_type=image.mime_type)


def pages_to_message(question: str, documents: Sequence[Document], *, password: Password = None) -> HumanMessage:
    """Return a message for a chat model that sees: each page with its name before it, then the question.

    Args:
        question: What is asked about the pages.
        documents: Pages, as they were loaded or retrieved.
        password: For encrypted PDFs (or several, to be tried) that have to be rendered.

    Raises:
        InputError: A document is no page.
        ImageError: The image of one cannot be read.
        PdfError: The PDF of one cannot be read.
    """
    blocks: list[ContentBlock] = []
    for document in documents:
        blocks += [create_text_block(_name(document)), page_to_content_block(document, password=password)]
    return HumanMessage(content_blocks=[*blocks, create_text_block(question)])


def _image_file(document: Document, password: Password) -> bytes:
    metadata = document.metadata
    if path := metadata.get("image_path"):
        return read_image(local_path(path))
    if image := image_in(document.page_content):
        return image
    path, index = _file(metadata), _number(metadata.get("page"))
    if path is None or index is None:
        raise InputError(
            "this document is no page: its metadata have neither image_path, nor page and file_path or source; load it "
            "with NemoVLMPDFLoader"
        )
    return encode_png(next(iter_pages(path_of(path), pages=[index], password=password)).image)


def _number(page: object) -> int | None:
    try:
        return int(float(page))  # type: ignore[arg-type]  # some stores give numbers back as floats or text
    except (TypeError, ValueError):
        return None


def _name(document: Document) -> str:
    metadata = document.metadata
    name = Path(_file(metadata) or metadata.get("image_path") or "image").name
    return f"{name}, page {metadata['page_label']}:" if "page_label" in metadata else f"{name}:"


def _file(metadata: Mapping[str, Any]) -> str | None:
    # Not `source` first: langchain-lancedb puts the place of its table there.
    return metadata.get("file_path") or metadata.get("source")
