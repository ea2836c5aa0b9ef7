"""A server that is not what it is taken for is found out before a vector of it is handed out."""

import logging
from pathlib import Path

import pytest

from nemovlm.errors import ConfigurationError, ServerError
from tests.support.fake_vllm import FakeVllm
from tests.support.faults import FaultServer, failing, says
from tests.support.remote import TEXTS, Call, all_right, error_of, remote
from tests.support.servers import running

pytestmark = pytest.mark.timeout(60)


async def test_vllms_own_server(call: Call, vl_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is asked in its own way if no engine was chosen: queries and passages have their prompts."""
    fake = FakeVllm(vl_folder, None)
    with running(fake) as url, remote(base_url=url, model="tiny-vl") as embedder:
        assert embedder._handle.route.engine == "nim"
        await call(embedder, "embed_query", "a")
        assert fake.requests[-1][1]["input"] == ["query: a"]
        described = embedder.describe()
    assert (described.engine, described.reason) == ("vllm-server", f"{url[7:]} says that it is vLLM's own server")
    assert "engine vllm-server is taken" in caplog.text


@pytest.mark.parametrize("knobs", [{"engine": "nim"}, {"embedding_type": "int8"}], ids=str)
async def test_vllms_own_server_where_that_cannot_be_helped(
    server: FaultServer, call: Call, knobs: dict[str, str]
) -> None:
    """An error says what it is and what to pass, each time, and nothing is embedded."""
    server.owner, server.ready = "vllm", False
    with remote(server, **knobs) as embedder:
        for _ in range(2):
            with pytest.raises(ConfigurationError, match=f"{server.host} is vLLM's own server.*engine='vllm-server'"):
                await call(embedder, "embed", ["a"])
    assert not server.posts


async def test_servers_of_two_kinds(server: FaultServer, call: Call) -> None:
    """They cannot share the work, and the error names both."""
    with failing() as other:
        other.owner, other.ready = "vllm", False
        with remote(server, other) as embedder, pytest.raises(ConfigurationError) as raised:
            await call(embedder, "embed", ["a"])
    assert f"{other.host} is vLLM's own server and {server.host} is not" in str(raised.value)


@pytest.mark.parametrize("status", [200, 401, 403, 404, 500, 503])
async def test_a_server_that_does_not_say(server: FaultServer, call: Call, status: int) -> None:
    """It is taken for what it was said to be, and asked once, or once more where nobody was there to answer."""
    server.listing = says(status, b"nothing")
    with remote(server, max_batch_size=8) as embedder:
        assert all_right(await call(embedder, "embed", TEXTS), TEXTS)
    assert len(server.requests) - len(server.posts) == (2 if status == 503 else 1)


async def test_a_nim_that_is_made_of_vllm(server: FaultServer, call: Call) -> None:
    """One that has a NIM's routes is one, whoever owns its models."""
    server.owner = "vllm"
    with remote(server) as embedder:
        assert all_right(await call(embedder, "embed", ["a"]), ["a"])


async def test_a_server_that_was_not_there_yet(server: FaultServer, call: Call) -> None:
    """vLLM that comes up after the start is found out before its first vector is handed out."""
    server.listing = lambda honest: says(502)(honest) if not server.posts else honest
    server.owner, server.ready = "vllm", False
    with remote(server) as embedder:
        for _ in range(2):
            with pytest.raises(ConfigurationError, match="is vLLM's own server"):
                await call(embedder, "embed", ["a"])


async def test_one_of_two_servers_that_was_not_there_yet(server: FaultServer, call: Call) -> None:
    """One that joins the others late is asked as soon as it has given vectors, and they are not handed out."""
    with failing() as late:
        late.owner, late.ready = "vllm", False
        late.stop()
        with remote(server, late, max_batch_size=1) as embedder:
            assert all_right(await call(embedder, "embed", TEXTS), TEXTS)
            late.start()
            server.clock.jump(server.clock.now() + 60)  # it was set aside
            with pytest.raises(ConfigurationError, match=f"{late.host} is vLLM's own server and {server.host} is not"):
                await call(embedder, "embed", TEXTS)


async def test_a_server_that_is_down(call: Call) -> None:
    """That nobody can be asked what it is, is no error by itself."""
    with failing() as one, failing() as two:
        two.stop()
        with remote(one, two) as embedder:
            assert all_right(await call(embedder, "embed", TEXTS), TEXTS)
        one.stop()
        with remote(one, two) as embedder:
            assert isinstance(await error_of(call, embedder), ServerError)


@pytest.mark.parametrize(
    ("owner", "product"), [("library", "Ollama"), ("llamacpp", "llama.cpp"), ("organization_owner", "LM Studio")]
)
async def test_servers_without_prompts(
    server: FaultServer, call: Call, caplog: pytest.LogCaptureFixture, owner: str, product: str
) -> None:
    """What is known to take no notice of `input_type` is used, and warned about once."""
    server.owner, server.ready = owner, False
    with remote(server) as embedder:
        for _ in range(2):
            assert all_right(await call(embedder, "embed", ["a"]), ["a"])
    warned = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warned) == 1
    assert f"{server.host} is {product}, which takes no notice of input_type" in warned[0]
