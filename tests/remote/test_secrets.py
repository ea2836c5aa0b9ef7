"""No key and no image comes out in a message, a representation or a log."""

import base64
import json
import logging

import pytest

from nemovlm import Passage
from nemovlm.errors import NemoVLMError
from tests.support.faults import Fault, FaultServer, Reply, says
from tests.support.remote import KEY, png, remote

pytestmark = pytest.mark.timeout(60)


def echo(server: FaultServer, status: int, shape: str) -> Fault:
    """Tell all that was sent in an error, as servers in debug mode do."""

    def fault(honest: Reply) -> Reply:
        request = server.requests[-1]
        everything = f"{request.headers} {request.body.decode()}"
        body: dict[str, object] = {
            "text": everything.encode(),
            "hosted": {"error": everything},
            "openai": {"error": {"message": everything}},
            "list": {"detail": [{"loc": ["body", "input", 0], "msg": everything, "input": request.json}]},
            "cut off": json.dumps({"detail": everything}).encode()[:-2],
            # Errors are cut after some hundred letters: these have the image among the first.
            "image": {"error": f"cannot decode {request.json['input'][-1]}"},
            "base64": {"error": f"cannot decode {request.json['input'][-1].partition('base64,')[2]}"},
            "image, cut off": f'{{"error": "cannot decode {request.json["input"][-1]}'.encode(),
        }
        return says(status, body[shape])(honest)

    return fault


@pytest.mark.parametrize("shape", ["text", "hosted", "openai", "list", "cut off", "image", "base64", "image, cut off"])
@pytest.mark.parametrize("status", [200, 302, 400, 401, 422, 429, 500])
def test_no_secret_comes_out(server: FaultServer, caplog: pytest.LogCaptureFixture, status: int, shape: str) -> None:
    """Keys and image data are in no message, representation or log, even if the server tells all that it was sent."""
    caplog.set_level(logging.DEBUG)
    key = f"{KEY}/+=" if shape == "text" else "sk-plain"  # one that looks like a key, and one that does not
    server.always = echo(server, status, shape)
    with remote(server, api_key=key, headers={"X-Secret": f"Bearer {key}"}, max_retries=0, deadline=0.2) as embedder:
        errors: list[NemoVLMError] = []
        items = [png(), Passage("page", png(1))]
        assert list(embedder.stream(items, on_error=errors.append)) == [None, None]
        list(embedder.stream(items, on_error="skip"))
        told = [repr(embedder), repr(embedder.settings), repr(embedder.describe()), caplog.text]
    told += [f"{error} {error!r} {vars(error)} {error.__cause__!r}" for error in errors]
    assert "left out" in caplog.text
    for text in told:
        assert key not in text
        assert base64.b64encode(png()).decode()[30:60] not in text
        assert base64.b64encode(png(1)).decode()[30:60] not in text
