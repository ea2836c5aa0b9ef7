"""What becomes of an item that failed. It stays in its stream as an error, and this is where `on_error` is applied."""

import logging
from collections.abc import Callable
from typing import Literal, TypeAlias, TypeVar

from nemovlm.errors import ConfigurationError, NemoVLMError

T = TypeVar("T")

OnError: TypeAlias = Literal["raise", "skip"] | Callable[[NemoVLMError], None]
"""What to do with an item that fails: raise, log a warning and go on, or call back and go on."""

_log = logging.getLogger("nemovlm")


def check_on_error(on_error: OnError) -> None:
    """Check that `on_error` is one of the policies.

    Raises:
        ConfigurationError: It is not.
    """
    if on_error not in {"raise", "skip"} and not callable(on_error):
        raise ConfigurationError(f"on_error={on_error!r} is neither 'raise' nor 'skip', nor a function")


def apply_on_error(result: T | NemoVLMError, on_error: OnError) -> T | None:
    """Return the result of one item. If it is an error, raise, log or report it as `on_error` says, and return None.

    Raises:
        NemoVLMError: The result is one, and `on_error` is `"raise"`.
    """
    if not isinstance(result, NemoVLMError):
        return result
    if on_error == "raise":
        raise result
    if callable(on_error):
        on_error(result)
    else:
        _log.warning("left out: %s", result)
    return None
