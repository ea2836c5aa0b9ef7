"""What annotations of a page say: filled form fields, text boxes and stamps. Touches PDFium, as `text` does."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any, NamedTuple, TypeAlias

import pypdfium2
import pypdfium2.raw as pdfium

from nemovlm.pdf.strings import read_string

Box: TypeAlias = tuple[float, float, float, float]
"""Left, bottom, right, top; points of the page."""

# A note and an attached file are drawn as signs, and what they say is in a window that nobody has opened.
_SIGNS = {pdfium.FPDF_ANNOT_TEXT, pdfium.FPDF_ANNOT_FILEATTACHMENT, pdfium.FPDF_ANNOT_POPUP}
# What these draw are ticks, which fonts of symbols have for letters.
_TICKS = {pdfium.FPDF_FORMFIELD_CHECKBOX, pdfium.FPDF_FORMFIELD_RADIOBUTTON}
_UNSEEN = pdfium.FPDF_ANNOT_FLAG_HIDDEN | pdfium.FPDF_ANNOT_FLAG_NOVIEW
_WITH_TEXT = {pdfium.FPDF_PAGEOBJ_TEXT, pdfium.FPDF_PAGEOBJ_FORM}


class Annotation(NamedTuple):
    """What is read in an annotation, and where it is."""

    text: str
    box: Box


class _Seen(NamedTuple):
    """An annotation that may have text."""

    number: int
    """0-based, among all of the page."""
    box: Box
    value: str
    """Of a text field, or "". A comb draws it letter by letter, far apart."""
    chosen: str | None
    """Of a list that draws all its options: those chosen."""


def read_annotations(page: pypdfium2.PdfPage, index: int, read: Callable[[pypdfium2.PdfPage], str]) -> list[Annotation]:
    """Return what is read in the annotations of a page that are seen, in the order of the document.

    It is what their appearance streams draw: the values and contents that they bring along may be something else.
    PDFium reads only what belongs to a page, so they are made a part of it (`FPDFPage_Flatten`), in a copy, because
    the document would keep it.

    Args:
        page: A page that was drawn: PDFium makes missing appearances of fields when it opens and draws it.
        index: Of the page, 0-based.
        read: Returns the text of a page, annotations left out.
    """
    count = pdfium.FPDFPage_GetAnnotCount(page)
    seen = [found for number in range(count) if (found := _look(page, number))]
    if not seen:
        return []
    try:
        texts = _read_flat(page, index, [found.number for found in seen], read)
    except pypdfium2.PdfiumError:  # a damaged page cannot be copied, but drawn
        return []
    if len(texts) != len(seen):  # one has no place on the page: then it is not known which
        return [Annotation(text, page.get_bbox()) for text in texts]
    return [Annotation(_choose(text, found), found.box) for text, found in zip(texts, seen, strict=True)]


def _read_flat(
    page: pypdfium2.PdfPage, index: int, numbers: Sequence[int], read: Callable[[pypdfium2.PdfPage], str]
) -> list[str]:
    """Return the text of those annotations that have a place on the page."""
    with closing(pypdfium2.PdfDocument.new()) as copy:
        copy.import_pages(page.pdf, [index])
        with closing(copy[0]) as copied:
            for number in sorted(set(range(pdfium.FPDFPage_GetAnnotCount(copied))) - set(numbers), reverse=True):
                pdfium.FPDFPage_RemoveAnnot(copied, number)
            if pdfium.FPDFPage_Flatten(copied, pdfium.FLAT_NORMALDISPLAY) != pdfium.FLATTEN_SUCCESS:
                return []
        with closing(copy[0]) as flat:
            return list(_read_forms(flat, read))


def _look(page: pypdfium2.PdfPage, number: int) -> _Seen | None:
    annotation = pdfium.FPDFPage_GetAnnot(page, number)
    if not annotation:
        return None
    try:
        if pdfium.FPDFAnnot_GetSubtype(annotation) in _SIGNS or pdfium.FPDFAnnot_GetFlags(annotation) & _UNSEEN:
            return None
        objects = range(pdfium.FPDFAnnot_GetObjectCount(annotation))
        drawn = (pdfium.FPDFPageObj_GetType(pdfium.FPDFAnnot_GetObject(annotation, n)) for n in objects)
        field = pdfium.FPDFAnnot_GetFormFieldType(page.formenv, annotation) if page.formenv else None
        if field in _TICKS or _WITH_TEXT.isdisjoint(drawn):
            return None
        rectangle = pdfium.FS_RECTF()
        pdfium.FPDFAnnot_GetRect(annotation, rectangle)
        return _Seen(
            number,
            (rectangle.left, rectangle.bottom, rectangle.right, rectangle.top),
            read_string(pdfium.FPDFAnnot_GetFormFieldValue, page.formenv, annotation)
            if field == pdfium.FPDF_FORMFIELD_TEXTFIELD
            else "",
            _chosen(page, annotation) if field == pdfium.FPDF_FORMFIELD_LISTBOX else None,
        )
    finally:
        pdfium.FPDFPage_CloseAnnot(annotation)


def _chosen(page: pypdfium2.PdfPage, annotation: Any) -> str:
    options = range(pdfium.FPDFAnnot_GetOptionCount(page.formenv, annotation))
    chosen = (n for n in options if pdfium.FPDFAnnot_IsOptionSelected(page.formenv, annotation, n))
    return "\n".join(read_string(pdfium.FPDFAnnot_GetOptionLabel, page.formenv, annotation, n) for n in chosen)


def _read_forms(page: pypdfium2.PdfPage, read: Callable[[pypdfium2.PdfPage], str]) -> Iterator[str]:
    """Yield the text of each form in the last object of a page: this is what its annotations have become."""
    objects = [pdfium.FPDFPage_GetObject(page, n) for n in range(pdfium.FPDFPage_CountObjects(page))]
    forms = [
        pdfium.FPDFFormObj_GetObject(flat, n)
        for flat in objects[-1:]
        for n in range(pdfium.FPDFFormObj_CountObjects(flat))
    ]
    for other in (*objects[:-1], *forms):
        pdfium.FPDFPageObj_SetIsActive(other, False)
    for form in forms:
        pdfium.FPDFPageObj_SetIsActive(form, True)
        yield read(page)
        pdfium.FPDFPageObj_SetIsActive(form, False)


def _choose(text: str, seen: _Seen) -> str:
    if seen.chosen is not None:
        return seen.chosen
    return seen.value if "".join(seen.value.split()) == "".join(text.split()) else text
