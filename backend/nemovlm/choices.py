"""What can be chosen by name, and the bounds that hold where nobody chose.

Loads nothing, so that the command line has it at once.
"""

from typing import Literal, TypeAlias

Role: TypeAlias = Literal["query", "passage"]
Modality: TypeAlias = Literal["text", "image", "text_image"]
Truncate: TypeAlias = Literal["NONE", "START", "END"]
EngineName: TypeAlias = Literal["auto", "vllm", "transformers", "nim", "vllm-server"]
DtypeName: TypeAlias = Literal["auto", "float32", "bfloat16", "float16"]
SearchMode: TypeAlias = Literal["vector", "text", "hybrid"]
VectorType: TypeAlias = Literal["float32", "float16", "int8"]
Tokenizer: TypeAlias = Literal["icu", "simple", "whitespace", "ngram"]

PAGE_TIMEOUT = 60.0
"""Seconds that a page may take. Of 4,944 PDFs of public collections of test files one takes longer: it never ends."""
PAGE_MEMORY = 2 * 2**30
"""Bytes that the process that renders may have, but for the pixels that it hands over."""

FLOOR = 0.999
"""The least cosine of two vectors that count as the same. Engines in float32 come within 1e-6 of 1 and bfloat16 within
2e-4 (small random checkpoint); tiles in another order, another resampling or a space less in a prompt fall below."""
