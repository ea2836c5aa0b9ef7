"""One page of a PDF, and what comes before it: its size, and its pixels in a buffer. Knows no PDFium."""

import hashlib
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from nemovlm.errors import PdfPageError
from nemovlm.images import save_png
from nemovlm.inputs import Modality, Passage

POINTS_PER_INCH = 72
TEXT_VERSION = 2
"""How texts of pages are read; a higher one if another text may come of the same page. 1 had cells stuck together, no
form fields, and what is hidden."""
_CHANNELS = 4  # RGB and a byte that is not used: as Pillow holds RGB, so that its pixels are copied and no more


@dataclass(frozen=True, eq=False)
class Page:
    """One page of a PDF."""

    source: str
    """The name that was given, the path as given, or `<bytes>`."""
    index: int
    """0-based."""
    label: str
    """What the document calls the page ("iv"), or else its number, 1-based."""
    total: int
    """Pages of the document."""
    image: Image.Image
    """RGB."""
    text: str
    """The text layer; empty where there is none."""
    width: float
    """Points (1/72 inch), as displayed: rotated and cropped."""
    height: float
    """Points, like the width."""
    dpi: float
    """Pixels per inch of `image`, along its width."""
    embedded: str = ""
    """The name of the PDF that the page is of, if that is attached to another; `source` ends with it then."""
    info: Mapping[str, str] = field(default_factory=dict)
    """What the document says of itself: `title`, `author`, `subject`, `keywords`, `creator`, `producer`, `creationdate`
    and `moddate`, all of them, empty where it does not say. Dates are ISO 8601."""

    @cached_property
    def image_sha256(self) -> str:
        """Digest of what is seen: size and pixels."""
        digest = hashlib.sha256(f"{self.image.size}\0".encode())
        digest.update(self.image.tobytes())
        return digest.hexdigest()

    @cached_property
    def sha256(self) -> str:
        """Digest of what is seen and read: image and text. Pages with the same digest embed alike."""
        return hashlib.sha256(f"{self.image_sha256}\0{self.text}".encode("utf-8", "surrogatepass")).hexdigest()

    @property
    def metadata(self) -> dict[str, str | int | float]:
        """The facts of the page as flat scalars, under the names that LangChain and LlamaIndex loaders use."""
        return {
            **self.info,
            **({"embedded": self.embedded} if self.embedded else {}),
            "page": self.index,
            "page_label": self.label,
            "total_pages": self.total,
            "width": self.width,
            "height": self.height,
            "dpi": self.dpi,
            "image_sha256": self.image_sha256,
        }

    @property
    def name(self) -> str:
        """What people call it: `report.pdf page 3`."""
        return f"{Path(self.source).name} page {self.index + 1}"

    def save_image(self, folder: Path) -> Path:
        """Write the image into `folder` as a PNG, named by its digest, unless it is there; return the file.

        Whoever reads while it is written sees a whole file or none.

        Raises:
            ImageError: The file cannot be written.
        """
        path = folder / f"{self.image_sha256}.png"
        save_png(self.image, path)
        return path

    def passage(self, modality: Modality = "text_image") -> Passage:
        """Return the page as something to embed; `text_image` is the image alone where there is no text."""
        return Passage(
            text=None if modality == "image" else self.text,
            image=None if modality == "text" else self.image,
            label=self.name,
        )


class PageSize(NamedTuple):
    """How large a page is, as displayed, and how large its image has to be."""

    width: float
    """Points."""
    height: float
    """Points."""
    columns: int
    """Pixels."""
    rows: int
    """Pixels."""

    @property
    def nbytes(self) -> int:
        """Bytes that the pixels take in a buffer, 4 each."""
        return self.columns * self.rows * _CHANNELS

    @property
    def dpi(self) -> float:
        """Pixels per inch, along the width."""
        return self.columns / self.width * POINTS_PER_INCH


def page_failure(name: str, page: int, why: str) -> PdfPageError:
    """Return the error of a page (0-based) of a document called `name`; `why` is how the sentence goes on."""
    return PdfPageError(f"the page cannot be read{why}", page=page).at(f"{name} page {page + 1}")


@dataclass(frozen=True)
class RenderedPage:
    """A page whose pixels, (rows, columns, 4) uint8, lie at the start of a buffer. The buffer is used again."""

    index: int
    """0-based."""
    label: str
    text: str
    size: PageSize
    lacking: Set[str]
    """Names of fonts that are neither embedded nor on this system, of which letters are missing."""

    def copy_image(self, pixels: memoryview) -> Image.Image:
        """Return the image. It is a copy, so the buffer is free again.

        Args:
            pixels: The buffer, as bytes.
        """
        image = Image.new("RGB", (self.size.columns, self.size.rows), None)  # None: not filled, all of it is written
        image.frombytes(pixels[: self.size.nbytes], "raw", "RGBX")
        return image
