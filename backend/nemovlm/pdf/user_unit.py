"""Pages whose points are larger than 1/72 inch. Touches PDFium, so the caller holds the lock."""

import math
import re
from contextlib import closing
from io import BytesIO

import pypdfium2

USER_UNIT = b"/UserUnit"
"""A key of pages (PDF 32000-1, table 30)."""
_VALUE = re.compile(rb"/UserUnit\s*([0-9.]+)")


def user_unit(document: pypdfium2.PdfDocument, index: int) -> float:
    """Return how large a point of a page (0-based) is, in 1/72 inch: 1 unless the page says otherwise.

    PDFium neither uses nor tells it, but writes it down with a copy of the page.
    """
    written = BytesIO()
    with closing(pypdfium2.PdfDocument.new()) as copy:
        try:
            copy.import_pages(document, [index])
        except pypdfium2.PdfiumError:  # damaged pages cannot be copied, but drawn
            return 1.0
        copy.save(written)
    found = _VALUE.search(written.getvalue())
    unit = float(found[1]) if found else 1.0
    return unit if 0 < unit < math.inf else 1.0
