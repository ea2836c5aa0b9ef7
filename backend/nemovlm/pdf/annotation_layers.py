"""Annotations on layers that are off are hidden. Touches PDFium, so the caller holds the lock.

PDFium draws them, and hands out nothing of an annotation that is no string or number, so that not even the name of its
layer can be had. But it can write the document down. There the layer of an annotation is found, and a page is added
that has a dot on each: PDFium draws those that are on.
"""

import ctypes
import math
import re
from contextlib import closing
from io import BytesIO
from typing import Any

import pypdfium2
import pypdfium2.raw as pdfium

_LAYER = b"OC"  # PDF 32000-1, table 164
_NUMBER = b"OBNemoVLM"  # our own entry, which PDFium writes just before that one, since it sorts them
_BRACKETS = re.compile(rb"<<|>>")
_ROOT = re.compile(rb"/Root (\d+) 0 R")
_SIZE = re.compile(rb"/Size (\d+)")


def hide_annotations(page: pypdfium2.PdfPage) -> None:
    """Give annotations whose layer is off the flag of hidden ones. The document keeps it as long as it is open."""
    annotations = [pdfium.FPDFPage_GetAnnot(page, n) for n in range(pdfium.FPDFPage_GetAnnotCount(page))]
    try:
        asked = [one for one in annotations if pdfium.FPDFAnnot_HasKey(one, _LAYER)]
        if asked:
            _hide(page.pdf, asked)
    finally:
        for annotation in annotations:
            pdfium.FPDFPage_CloseAnnot(annotation)


def _hide(document: pypdfium2.PdfDocument, annotations: list[Any]) -> None:
    for number, annotation in enumerate(annotations):
        pdfium.FPDFAnnot_SetStringValue(annotation, _NUMBER, (ctypes.c_ushort * 6)(*f"{number:05}".encode()))
    file = BytesIO()
    try:
        document.save(file, flags=pdfium.FPDF_REMOVE_SECURITY)
        written = file.getvalue()
        are_on = _are_on(written, [_layer(written, number) for number in range(len(annotations))])
    except (ValueError, IndexError, pypdfium2.PdfiumError):  # damaged documents cannot be written, but drawn
        return
    for annotation, is_on in zip(annotations, are_on, strict=True):
        if not is_on:
            flags = pdfium.FPDFAnnot_GetFlags(annotation) | pdfium.FPDF_ANNOT_FLAG_HIDDEN
            pdfium.FPDFAnnot_SetFlags(annotation, flags)


def _layer(written: bytes, number: int) -> bytes:
    """Return the layer of an annotation: a reference, or a dictionary."""
    key = b"/%s(%05d)/%s" % (_NUMBER, number, _LAYER)
    start = end = written.index(key) + len(key)
    if not written.startswith(b"<<", start):
        return written[start : written.index(b"R", start) + 1]
    depth = 0
    for bracket in _BRACKETS.finditer(written, start):
        depth += 1 if bracket[0] == b"<<" else -1
        if not depth:
            end = bracket.end()
            break
    return written[start:end]


def _are_on(written: bytes, layers: list[bytes]) -> list[bool]:
    """Return whether each layer is on, from a picture of a dot on each."""
    table = written[(start := _number(written, written.rindex(b"startxref"))) :]
    first = int(_SIZE.findall(table)[-1])
    catalog = _object(written, table, int(_ROOT.findall(table)[-1]))
    properties = b"".join(b"/L%d %s" % layer for layer in enumerate(layers))
    dots = b"".join(b"/OC/L%d BDC %d 0 1 1 re f EMC " % (n, n) for n in range(len(layers)))
    resources = b"/Resources<</Properties<<%s>>>>" % properties
    objects = (
        catalog.removesuffix(b">>") + b"/Pages %d 0 R>>" % (first + 1),
        b"<</Type/Pages/Count 1/Kids[%d 0 R]>>" % (first + 2),
        b"<</Type/Page/Parent %d 0 R/MediaBox[0 0 %d 1]/Contents %d 0 R%s>>"
        % (first + 1, len(layers), first + 3, resources),
        b"<</Length %d>>stream\n%s\nendstream" % (len(dots), dots),
    )
    update, entries = b"\n", b""
    for number, body in enumerate(objects, first):
        entries += b"%010d 00000 n \n" % (len(written) + len(update))
        update += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    trailer = b"trailer<</Size %d/Root %d 0 R/Prev %d>>" % (first + len(objects), first, start)
    end = b"startxref\n%d\n%%%%EOF\n" % (len(written) + len(update))
    update += b"xref\n%d %d\n%s%s\n%s" % (first, len(objects), entries, trailer, end)
    with closing(pypdfium2.PdfDocument(written + update)) as asked:
        return _dark(asked[0], len(layers))


def _dark(page: pypdfium2.PdfPage, columns: int) -> list[bool]:
    """Return which pixels of a page of one row are dark."""
    stride = 4 * math.ceil(columns / 4)  # PDFium's rows are of whole words
    pixels = (ctypes.c_ubyte * stride).from_buffer_copy(b"\xff" * stride)
    with closing(pypdfium2.PdfBitmap.new_native(columns, 1, pdfium.FPDFBitmap_Gray, buffer=pixels)) as bitmap:
        pdfium.FPDF_RenderPageBitmap(bitmap, page, 0, 0, columns, 1, 0, 0)
    return [pixel < 128 for pixel in pixels[:columns]]


def _object(written: bytes, table: bytes, number: int) -> bytes:
    """Return an object, found by a table of those that were written (PDF 32000-1, 7.5.4)."""
    words = table[: table.index(b"trailer")].split()
    at = 1
    while at < len(words):
        first, count = int(words[at]), int(words[at + 1])
        if first <= number < first + count:
            start = int(words[at + 2 + 3 * (number - first)])
            return written[written.index(b"obj", start) + 3 : written.index(b"endobj", start)].strip()
        at += 2 + 3 * count
    raise ValueError("the document has no catalog")


def _number(written: bytes, start: int) -> int:
    """Return the number behind the word that starts there."""
    return int(written[start:].split(maxsplit=2)[1])
