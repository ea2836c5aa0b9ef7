"""Images: any source becomes RGB pixels (`decode`), pixels become a file (`encode`), and the web is asked (`download`).

Knows Pillow; knows nothing of models.
"""

from nemovlm.images.decode import (
    MAX_PIXELS,
    ImageSource,
    decode_base64,
    has_data_scheme,
    image_in,
    image_source,
    image_type,
    is_data_url,
    load_image,
    measure,
    read_image,
    view_image,
)
from nemovlm.images.download import ImageUrl
from nemovlm.images.encode import Encoded, compact, data_url, encode_jpeg, encode_png, for_chat, save_png

__all__ = [
    "MAX_PIXELS",
    "Encoded",
    "ImageSource",
    "ImageUrl",
    "compact",
    "data_url",
    "decode_base64",
    "encode_jpeg",
    "encode_png",
    "for_chat",
    "has_data_scheme",
    "image_in",
    "image_source",
    "image_type",
    "is_data_url",
    "load_image",
    "measure",
    "read_image",
    "save_png",
    "view_image",
]
