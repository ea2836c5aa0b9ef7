"""Every error that this package raises on purpose.

    NemoVLMError
    ├── ConfigurationError          a setting is wrong, or does not fit another       (also a ValueError)
    │   ├── UnknownModelError       no such model id or checkpoint folder
    │   ├── MissingExtraError       a library is not installed                         (also an ImportError)
    │   └── EngineUnavailableError  the chosen engine cannot run here
    ├── CheckpointError             a checkpoint is incomplete or of another shape
    ├── InputError                  one item cannot be embedded as it is              (also a ValueError)
    │   ├── ImageError              its image cannot be read
    │   │   └── ImageTooLargeError  it has more pixels than can be decoded safely
    │   └── InputTooLongError       it has more tokens than the model takes
    ├── EngineError                 an engine failed, or answered with something that is no embedding
    │   ├── AuthenticationError     a server wants a key, or another one
    │   ├── ModelNotServedError     a server does not have the model, or not for this account
    │   ├── RateLimitedError        a server wants fewer requests, and time ran out
    │   ├── ServerError             a server failed or could not be reached, and repeating did not help
    │   ├── RequestRefusedError     a server refused a request for a reason that lies in no single item
    │   └── ProtocolError           a server's reply is not what the protocol says
    ├── PdfError                    a PDF cannot be opened
    │   ├── PdfPasswordError        it wants a password, or another one
    │   ├── PdfSecurityError        it is protected in a way that PDFium cannot undo
    │   ├── PdfFormatError          it is no PDF, or too damaged to open
    │   └── PdfPageError            one page failed; the others are not concerned
    └── PageIndexError              a page index cannot do what was asked
        ├── SpaceMismatchError      vectors of two different spaces would be mixed
        └── IndexStorageError       its folder cannot be read or written
            └── IndexBusyError      others kept writing to it at the same time

A message is one sentence or two: what happened, to which item, what to do. Messages hold no keys and no image
data. Every error survives pickling, because pages are rendered in other processes.
"""

from typing import Self


class NemoVLMError(Exception):
    """Base of all errors raised on purpose.

    `item` names the input concerned and `index` is its 0-based position, where there is one. `status` and
    `request_id` are those of a server's reply, where one was asked.
    """

    item: str | None = None
    index: int | None = None
    status: int | None = None
    request_id: str | None = None

    def at(self, item: str, index: int | None = None) -> Self:
        """Name the input that this error is about, and its position, unless they are known already."""
        self.item = self.item or item
        self.index = index if self.index is None else self.index
        return self

    def shift_index(self, start: int) -> Self:
        """Count the input from the start of the whole list that its batch began at `start` of."""
        if self.index is not None:
            if self.item == f"item {self.index}":
                self.item = f"item {self.index + start}"
            self.index += start
        return self

    def __str__(self) -> str:
        message = super().__str__()
        return f"{self.item}: {message}" if self.item else message


class ConfigurationError(NemoVLMError, ValueError):
    """A setting is wrong, or does not fit another."""


class UnknownModelError(ConfigurationError):
    """There is no such model id and no such checkpoint folder."""


class MissingExtraError(ConfigurationError, ImportError):
    """A library is missing; the message says which extra brings it."""

    def __init__(self, what: str, extra: str = "") -> None:
        hint = f"{what} needs more than the base install: pip install 'nemovlm[{extra}]'" if extra else what
        super().__init__(hint)  # with a whole message alone, as unpickling passes it


class EngineUnavailableError(ConfigurationError):
    """The engine that was chosen cannot run on this machine."""


class CheckpointError(NemoVLMError):
    """A checkpoint cannot be used: a file or weight is missing, left over, or of another shape."""


class InputError(NemoVLMError, ValueError):
    """One input cannot be embedded as it is."""


class ImageError(InputError):
    """An image cannot be read."""


class ImageTooLargeError(ImageError):
    """An image has more pixels than can be decoded safely, or than a server allows."""


class InputTooLongError(InputError):
    """An input has more tokens than the model takes. `tokens` and `limit` are the two numbers."""

    def __init__(self, message: str, *, tokens: int = 0, limit: int = 0) -> None:
        super().__init__(message)
        self.tokens = tokens
        self.limit = limit


class EngineError(NemoVLMError):
    """An engine failed, or answered with something that is not a proper embedding."""


class AuthenticationError(EngineError):
    """A server refused the key, or got none."""


class ModelNotServedError(EngineError):
    """A server does not have the model that was asked for, or not for this account."""


class RateLimitedError(EngineError):
    """A server kept answering that there were too many requests, until the deadline."""


class ServerError(EngineError):
    """A server failed or could not be reached, and repeating the request did not help."""


class RequestRefusedError(EngineError):
    """A server refused a request, for a reason that lies in no single item or that it did not give."""


class ProtocolError(EngineError):
    """A server's reply is not what the protocol says: nothing in it can be trusted, so nothing was taken from it."""


class PdfError(NemoVLMError):
    """A PDF cannot be opened or read."""


class PdfPasswordError(PdfError):
    """A PDF is encrypted, and the password is missing or wrong."""


class PdfSecurityError(PdfError):
    """A PDF uses a protection scheme that PDFium does not support."""


class PdfFormatError(PdfError):
    """A file is no PDF, or too damaged to be opened."""


class PdfPageError(PdfError):
    """One page of a PDF cannot be read. `page` is its 0-based index; the other pages are not concerned."""

    def __init__(self, message: str, *, page: int = 0) -> None:
        super().__init__(message)
        self.page = page


class PageIndexError(NemoVLMError):
    """A page index cannot do what was asked."""


class SpaceMismatchError(PageIndexError):
    """Vectors of two different embedding spaces would be mixed."""


class IndexStorageError(PageIndexError):
    """The folder of a page index cannot be read or written."""


class IndexBusyError(IndexStorageError):
    """Others kept writing to a page index, so that a change found no place between theirs. Nothing is lost."""


def one_line(error: BaseException) -> str:
    """Return in one line what an exception of somebody else's says: for a system error the reason, without the path."""
    said = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    return str(said).splitlines()[0][:300]
