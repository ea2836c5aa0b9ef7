"""What `tests/unit/test_pdf.py` promises of PDFs, with pages rendered in processes of their own, as they always are."""

from tests.unit.test_pdf import *  # noqa: F403
