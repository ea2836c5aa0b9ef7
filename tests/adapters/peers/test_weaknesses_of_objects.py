"""What the clients get wrong as objects: made, used by several threads and loops, copied, and what they hold."""

import asyncio
import gc
import pickle
import ssl
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from nemovlm.errors import ServerError
from nemovlm.wire.address import HOSTED_URL
from tests.adapters.peers.stage import LANGCHAIN, LLAMAINDEX, ONCE, PARAMETERS, Elsewhere, Stage, row, same
from tests.support.faults import MODEL, failing, vector_of, vectors_of


@row(LANGCHAIN, "L14")
@row(LANGCHAIN, PARAMETERS, "nothing touches the network in a constructor")
@row(LLAMAINDEX, PARAMETERS, "nothing touches the network in a constructor")
def test_no_constructor_touches_the_network(stage: Stage) -> None:
    """Objects are made and copied before their servers are there, with a model that is known, unknown or not chosen."""
    elsewhere = Elsewhere()
    for fields in ({}, {"model": "nvidia/unknown"}, {"model": MODEL, "api_key": "k", "dimensions": 8}):
        for url in (stage.wire.url, HOSTED_URL, "http://192.0.2.1", "https://no.such.host.example"):
            assert url in repr(stage.make(base_url=url, http_client=elsewhere.client, **fields))
            assert pickle.loads(pickle.dumps(stage.make(base_url=url, **fields))).base_url == url
    assert stage.wire.connections == 0
    assert not elsewhere.requests


@row(LANGCHAIN, "L7")
def test_one_connection_serves_one_request_after_the_other(stage: Stage) -> None:
    """Ten calls, queries and texts, take one connection."""
    made = stage.make(model=MODEL)
    for text in "abcde":
        stage.door.query(made, text)
        stage.door.texts(made, [text])
    assert len(stage.wire.posts) == 10
    assert stage.wire.connections == 1


@row(LANGCHAIN, "L12")
def test_neither_a_request_nor_its_reply_is_kept(stage: Stage) -> None:
    """After a text of a million bytes, less than a quarter of that is held."""
    made = stage.make(model=MODEL)
    stage.door.texts(made, ["warm"])
    with memory() as held:
        stage.door.texts(made, ["x" * 1_000_000])
        stage.wire.requests.clear()
        vector_of.cache_clear()
        soon = time.monotonic() + 2
        while (left := held()) >= 250_000 and time.monotonic() < soon:
            time.sleep(0.01)  # the server, which is in this process, has yet to let go of what it has answered
        assert left < 250_000


@contextmanager
def memory() -> Iterator[Callable[[], int]]:
    """Yield a function that counts the bytes taken since, and still held."""

    def held() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    gc.freeze()  # so that only what is made from here on is looked through
    tracemalloc.start()
    try:
        yield held
    finally:
        tracemalloc.stop()
        gc.unfreeze()


@row(LANGCHAIN, "L13")
@row(LLAMAINDEX, "I7")
def test_an_object_that_was_used_is_copied_and_shared_by_threads(stage: Stage) -> None:
    """A pickled copy sends the same key and waits as long, and eight threads get the vectors that each asked for."""
    made = stage.make(model=MODEL, api_key="k", timeout=3, max_retries=1)
    first = [stage.door.query(made, "a"), stage.door.text(made, "a")]
    again = pickle.loads(pickle.dumps(made))
    stage.closing.callback(again.embedder.close)
    assert [stage.door.query(again, "a"), stage.door.text(again, "a")] == first
    assert [request.headers["authorization"] for request in stage.wire.posts] == ["Bearer k"] * 4
    assert (again.embedder.settings.timeout, again.embedder.settings.max_retries) == (3, 1)
    texts = [f"text {number}" for number in range(24)]
    with ThreadPoolExecutor(8) as threads:
        vectors = list(threads.map(lambda text: stage.door.query(made, text), texts))
    assert same(vectors, vectors_of(texts, "query"))


@row(LLAMAINDEX, "I5", colors=("async",))
def test_one_object_serves_one_event_loop_after_the_other(stage: Stage) -> None:
    """Three loops, each with calls at once, get the vectors they asked for."""
    made = stage.make(model=MODEL)
    texts = ["a", "b", "c"]
    method = made.aembed_query if stage.door.framework == LANGCHAIN else made.aget_query_embedding

    async def several() -> list[list[float]]:
        return await asyncio.gather(*(method(text) for text in texts))

    for _ in range(3):
        assert same(asyncio.run(several()), vectors_of(texts, "query"))


@row(LANGCHAIN, "L16")
@row(LANGCHAIN, PARAMETERS, "verify_ssl is a CA file, or False")
def test_an_authority_of_ones_own_is_named_by_an_argument_or_a_variable(stage: Stage) -> None:
    """`verify_ssl` and SSL_CERT_FILE name the CA file of sync and async calls alike; without, the server is refused."""
    context, ca = certificate(stage.folder)
    with failing(tls=context) as server:
        fields = {"base_url": server.url, "model": MODEL, "max_retries": 0}
        expected = vectors_of(["a"], "query")[0]
        with pytest.raises(ServerError, match="certificate"):
            stage.door.query(stage.make(**fields), "a")
        assert same(stage.door.query(stage.make(verify_ssl=str(ca), **fields), "a"), expected)
        assert same(stage.door.query(stage.make(verify_ssl=False, **fields), "a"), expected)
        stage.env.setenv("SSL_CERT_FILE", str(ca))
        assert same(stage.door.query(stage.make(**fields), "a"), expected)
        stage.closing.close()  # before the server goes


def certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """Return what a server on loopback shows, signed by nobody but itself."""
    key, cert = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", "/CN=loopback", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context, cert


@row(LLAMAINDEX, "I3", colors=ONCE)
def test_a_package_imports_nothing_that_it_does_not_declare(stage: Stage) -> None:
    """In a new process that has neither torch nor openai nor NVIDIA's clients, the package is imported all the same."""
    package = "langchain_nemovlm" if stage.door.framework == LANGCHAIN else "llamaindex_nemovlm"
    absent = ("openai", "langchain_nvidia_ai_endpoints", "llama_index.embeddings.nvidia", "torch")
    code = f"import sys; sys.modules.update(dict.fromkeys({absent!r})); import {package}"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True)
