"""PDFs that are attached to a PDF, as those of a portfolio are. Touches PDFium, so the caller holds the lock."""

import ctypes

import pypdfium2
import pypdfium2.raw as pdfium

from nemovlm.pdf.strings import read_string


def attached_pdfs(document: pypdfium2.PdfDocument) -> dict[int, str]:
    """Return the PDFs that are attached: which attachment it is, 0-based, and its name."""
    names = {
        number: read_string(pdfium.FPDFAttachment_GetName, pdfium.FPDFDoc_GetAttachment(document, number))
        for number in range(pdfium.FPDFDoc_GetAttachmentCount(document))
    }
    return {number: name for number, name in names.items() if name.lower().endswith(".pdf")}


def read_attachment(document: pypdfium2.PdfDocument, number: int) -> bytes:
    """Return the content of an attachment (0-based).

    Raises:
        ValueError: There is none, or it is damaged.
    """
    attachment = pdfium.FPDFDoc_GetAttachment(document, number)
    size = ctypes.c_ulong()
    if not pdfium.FPDFAttachment_GetFile(attachment, None, 0, size):
        raise ValueError("its content is missing or damaged")
    buffer = ctypes.create_string_buffer(size.value)
    if not pdfium.FPDFAttachment_GetFile(attachment, buffer, size.value, size):
        raise ValueError("its content is damaged")
    return buffer.raw[: size.value]
