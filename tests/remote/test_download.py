"""Pictures on the web: fetched only when asked for by name, within limits, over real sockets."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from nemovlm import Embedder, ImageUrl, Passage
from nemovlm.errors import ImageError, InputError
from nemovlm.images import download, encode_png, image_source
from tests.support.checkpoints import case_image
from tests.support.servers import running

PNG = encode_png(case_image("square"))


@pytest.fixture(scope="module")
def web() -> Iterator[tuple[str, list[str]]]:
    """A host with a picture, and a list of what was asked of it."""
    asked: list[str] = []

    async def page(request: Request) -> Response:
        asked.append(request.url.path)
        replies: dict[str, Any] = {
            "/page.png": lambda: Response(PNG, media_type="image/png"),
            "/moved": lambda: RedirectResponse("/page.png"),
            "/loop": lambda: RedirectResponse("/loop"),
            "/large": lambda: Response(bytes(5000)),
            "/text": lambda: Response("no picture"),
        }
        return replies.get(request.url.path, lambda: Response(status_code=404))()

    with running(Starlette(routes=[Route("/{path:path}", page)])) as address:
        yield address, asked


def test_an_image_url_is_fetched_once(vl: Embedder, web: tuple[str, list[str]]) -> None:
    """Alone, in a passage and behind a redirect, it is the picture it leads to."""
    address, asked = web
    asked.clear()
    got = vl.embed([ImageUrl(f"{address}/page.png"), Passage(image=ImageUrl(f"{address}/moved"))])
    assert np.abs(got - vl.embed([PNG])).max() <= 1e-5
    assert sorted(asked) == ["/moved", "/page.png", "/page.png"]


@pytest.mark.parametrize("value", ["fd07:b51a:cc66::/64,127.0.0.1", "[::1],127.0.0.0/8", "*"])
def test_proxies_of_the_environment_are_read_as_for_servers(
    value: str, web: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host in NO_PROXY, in whatever way that is written, is asked directly; any other through the proxy."""
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", value)
    assert download.download(ImageUrl(f"{web[0]}/moved")) == PNG
    monkeypatch.delenv("NO_PROXY")
    with pytest.raises(ImageError, match="cannot be fetched"):
        download.download(ImageUrl(f"{web[0]}/page.png"))


def test_a_text_is_never_fetched(vl: Embedder, web: tuple[str, list[str]]) -> None:
    """An address in a text stays a text, and as an image it is refused until it is wrapped."""
    address, asked = web
    asked.clear()
    vl.embed([f"{address}/page.png", Passage(text=f"<img src='{address}/page.png'>")])
    with pytest.raises(ImageError, match="only if all of it is a data URL"):
        vl.embed([Passage(image=f"{address}/page.png")])
    with pytest.raises(ImageError, match=r"are not fetched; download the image, or pass a nemovlm\.ImageUrl"):
        image_source(f"{address}/page.png")
    assert asked == []


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/none?token=secret", "/none answered 404"),
        ("/large?token=secret", "/large is over 4000 bytes"),
        ("/loop?token=secret", "/loop leads from one address to the next"),
        ("/text?token=secret", "no image that can be read"),
    ],
)
def test_what_cannot_be_had(
    vl: Embedder, web: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch, path: str, message: str
) -> None:
    """One sentence without the query, which may be a signature; the mates get their vectors."""
    monkeypatch.setattr(download, "MAX_BYTES", 4000)
    errors: list[Exception] = []
    got = list(vl.stream(["a", ImageUrl(web[0] + path), "b"], on_error=errors.append))
    assert [vector is None for vector in got] == [False, True, False]
    with pytest.raises(ImageError, match=message) as caught:
        raise errors[0]
    assert "secret" not in str(caught.value)


def test_a_host_that_is_not_there(vl: Embedder) -> None:
    """No connection is an error of the item."""
    with pytest.raises(ImageError, match=r"item 0: http://127\.0\.0\.1:9/x\.png cannot be fetched"):
        vl.embed([ImageUrl("http://127.0.0.1:9/x.png")])


@pytest.mark.parametrize(
    "url", ["ftp://host/x.png", "/tmp/x.png", "file:///etc/passwd", "", "data:image/png;base64,AA"]
)
def test_other_addresses(url: str) -> None:
    """Only http and https are addresses."""
    with pytest.raises(InputError, match="is no http:// or https:// address"):
        ImageUrl(url)
