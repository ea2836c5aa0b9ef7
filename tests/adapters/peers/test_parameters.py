"""The names of arguments and methods, which let a change of import be the whole migration."""

import inspect
import re
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import httpx
import pytest
from langchain_nvidia_ai_endpoints import NVIDIAEmbeddings
from llama_index.core.callbacks import CallbackManager
from llama_index.core.rate_limiter import TokenBucketRateLimiter
from llama_index.core.storage.kvstore import SimpleKVStore
from llama_index.embeddings.nvidia import NVIDIAEmbedding
from pydantic import BaseModel

from langchain_nemovlm import NemoVLMEmbeddings
from llamaindex_nemovlm import NemoVLMEmbedding
from tests.adapters.peers.stage import (
    BOTH,
    LANGCHAIN,
    LLAMAINDEX,
    ONCE,
    PARAMETERS,
    Elsewhere,
    Stage,
    row,
    same,
)
from tests.adapters.peers.weaknesses import RELEASES
from tests.support.faults import MODEL, vectors_of

CLIENTS: dict[str, type[BaseModel]] = {LANGCHAIN: NVIDIAEmbeddings, LLAMAINDEX: NVIDIAEmbedding}
OURS: dict[str, type[BaseModel]] = {LANGCHAIN: NemoVLMEmbeddings, LLAMAINDEX: NemoVLMEmbedding}


@dataclass(frozen=True)
class Argument:
    """What becomes of an argument of a client's constructor if it is passed to ours."""

    example: Any
    refused: str = ""
    """Why ours does not take it. Else it does."""


ARGUMENTS = {
    LANGCHAIN: {
        "model": Argument(MODEL),
        "base_url": Argument("http://nim.example/v1"),
        "nvidia_base_url": Argument("http://nim.example/v1"),
        "api_key": Argument("k"),
        "nvidia_api_key": Argument("k"),
        "truncate": Argument("END"),
        "dimensions": Argument(64),
        "max_batch_size": Argument(50),
        "default_headers": Argument({"X-Team": "t"}),
        "verify_ssl": Argument(False),
        "trucate": Argument("END", refused="it is a misspelling; truncate is taken"),
        "usage_telemetry_enabled": Argument(False, refused="there is no telemetry that could be switched off"),
    },
    LLAMAINDEX: {
        "model": Argument(MODEL),
        "model_name": Argument(MODEL),
        "base_url": Argument("http://nim.example/v1"),
        "api_key": Argument("k"),
        "nvidia_api_key": Argument("k"),
        "truncate": Argument("END"),
        "dimensions": Argument(64),
        "timeout": Argument(9.0),
        "max_retries": Argument(0),
        "embed_batch_size": Argument(100),
        "num_workers": Argument(2),
        "callback_manager": Argument(CallbackManager()),
        "embeddings_cache": Argument(SimpleKVStore()),
        "rate_limiter": Argument(TokenBucketRateLimiter(requests_per_minute=600)),
        "async_http_client": Argument(Elsewhere().client()),
        "http_client": Argument(
            httpx.Client(verify=False),
            refused="one async client sends the requests of sync and async code; a sync client is taken beside it only",
        ),
    },
}


def arguments_of(client: type[BaseModel]) -> set[str]:
    """Return the names that a client's constructor knows: its parameters, its fields, and what it takes of **kwargs."""
    named = set(inspect.signature(client.__init__).parameters) - {"self", "kwargs"}
    taken = re.findall(r"kwargs\.(?:pop|get)\(\s*\"(\w+)\"", inspect.getsource(client.__init__))
    return named | set(client.model_fields) | set(taken)


def methods_of(kind: type[BaseModel]) -> set[str]:
    """Return the names of methods and properties that users see, without those of every pydantic model."""
    return {name for name in dir(kind) if not name.startswith("_")} - set(dir(BaseModel))


def installed(framework: str) -> str:
    """Return which release of a client is installed, and which one these tests were written for."""
    distribution, release = RELEASES[framework]
    return f"{distribution} {version(distribution)} is installed (these tests were written for {release})"


@pytest.mark.parametrize("framework", BOTH)
def test_every_argument_of_the_client_is_known(framework: str) -> None:
    """No argument of the installed client is missing in `ARGUMENTS`, and none is there that it has not."""
    theirs, known = arguments_of(CLIENTS[framework]), set(ARGUMENTS[framework])
    assert theirs == known, (
        f"{installed(framework)}: new are {sorted(theirs - known)}, gone are {sorted(known - theirs)}. Say in "
        "`ARGUMENTS` what ours does with them, and read weaknesses.py and the table for users of "
        f"{CLIENTS[framework].__name__} in docs/{framework.lower()}.md again"
    )


@pytest.mark.parametrize("framework", BOTH)
def test_every_method_of_the_client_is_there(framework: str) -> None:
    """Whoever changes the import finds every public method and property of the installed client in our class."""
    missing = methods_of(CLIENTS[framework]) - methods_of(OURS[framework])
    assert not missing, f"{installed(framework)}: ours lacks {sorted(missing)}"


@row(LANGCHAIN, PARAMETERS, "every argument of NVIDIAEmbeddings is one of ours", ours=(LANGCHAIN,), colors=ONCE)
@row(LLAMAINDEX, PARAMETERS, "every argument of NVIDIAEmbedding is one of ours", ours=(LLAMAINDEX,), colors=ONCE)
def test_every_argument_of_the_client_is_taken_or_refused_by_its_name(stage: Stage) -> None:
    """Nothing that was meant for the client goes unnoticed: it is taken, or it is an error that names it."""
    for name, argument in ARGUMENTS[stage.door.framework].items():
        if argument.refused:
            with pytest.raises(ValueError, match=name):
                stage.make(**{name: argument.example})
        else:
            stage.make(**{name: argument.example})


@row(LANGCHAIN, PARAMETERS, "model, dimensions, truncate, max_batch_size, api_key, base_url are arguments")
@row(LLAMAINDEX, PARAMETERS, "model, dimensions, truncate, timeout, max_retries, api_key, base_url are arguments")
def test_the_arguments_of_both_clients_reach_the_server(stage: Stage) -> None:
    """Model, dimensions, truncate, key and size of a batch are in what is sent."""
    made = stage.make(
        model=MODEL, dimensions=64, truncate="END", api_key="k", max_batch_size=1, timeout=9, max_retries=0
    )
    assert same(stage.door.texts(made, ["a", "b"]), vectors_of(["a", "b"], cut=64))
    assert [request.headers["authorization"] for request in stage.wire.posts] == ["Bearer k"] * 2
    assert [(body["dimensions"], body["truncate"], body["model"]) for body in stage.wire.asked] == [
        (64, "END", MODEL)
    ] * 2


@row(LANGCHAIN, PARAMETERS, "nvidia_base_url, nvidia_api_key, default_headers and verify_ssl are arguments")
def test_the_names_that_only_the_client_has_work(stage: Stage) -> None:
    """What the client calls otherwise than we do is taken by the client's name as well."""
    made = stage.make(
        nvidia_base_url=stage.wire.url, nvidia_api_key="k", default_headers={"X-Team": "t"}, verify_ssl=False
    )
    assert same(stage.door.query(made, "a"), vectors_of(["a"], "query")[0])
    assert {(request.headers["authorization"], request.headers["x-team"]) for request in stage.wire.requests} == {
        ("Bearer k", "t")
    }
    assert made.embedder.settings.verify is False


@row(LLAMAINDEX, PARAMETERS, "http_client and async_http_client are arguments, and the latter does async work")
def test_an_async_http_client_does_all_the_work(stage: Stage) -> None:
    """With both kinds of clients, the async one sends every request, that of sync code as well."""
    elsewhere = Elsewhere()
    with httpx.Client() as never_used:
        made = stage.make(async_http_client=elsewhere.client(), http_client=never_used)
        assert same(stage.door.query(made, "a"), vectors_of(["a"], "query")[0])
    assert len(elsewhere.asked) == 2
    assert not stage.wire.requests


@row(LLAMAINDEX, PARAMETERS, "num_workers, callback_manager, embeddings_cache, rate_limiter", ours=(LLAMAINDEX,))
def test_the_arguments_of_llamaindexs_own_embeddings_work(stage: Stage) -> None:
    """Workers, callbacks, a cache and a limiter of LlamaIndex's are taken, and the cache saves the second request."""
    cache, limiter = SimpleKVStore(), TokenBucketRateLimiter(requests_per_minute=600)
    made = stage.make(
        num_workers=2, callback_manager=CallbackManager(), embeddings_cache=cache, rate_limiter=limiter, model=MODEL
    )
    assert same([stage.door.query(made, "a") for _ in range(2)], vectors_of(["a", "a"], "query"))
    assert len(stage.wire.posts) == 1


@row(
    *(LANGCHAIN, PARAMETERS, "unknown arguments are ignored, and trucate [sic] is truncate"),
    differs="what is misspelt must not go unnoticed; there is no telemetry that could be switched off",
    colors=ONCE,
)
def test_an_unknown_argument_is_an_error_that_names_it(stage: Stage) -> None:
    """What is misspelt, or not known here, does not go unnoticed."""
    for name in ("trucate", "modality", "max_batchsize", "usage_telemetry_enabled"):
        with pytest.raises(ValueError, match=name):
            stage.make(**{name: "END"})
    assert stage.make(truncate="END").truncate == "END"


@row(
    *(LLAMAINDEX, PARAMETERS, "dimensions=0 and None are the same"),
    differs="a vector of no components is a mistake; None is the way to say nothing",
    colors=ONCE,
)
def test_a_vector_of_no_components_is_an_error(stage: Stage) -> None:
    """`dimensions=0` is an error of the constructor, and None means all of them."""
    with pytest.raises(ValueError, match="dimensions"):
        stage.make(dimensions=0)
    assert stage.make(dimensions=None).embedder.settings.dimensions is None


@row(LANGCHAIN, PARAMETERS, "`[]` is answered with `[]`, and nobody is asked")
@row(LLAMAINDEX, PARAMETERS, "`[]` is answered with `[]`, and nobody is asked")
def test_nobody_is_asked_about_nothing(stage: Stage) -> None:
    """No texts and no images have no vectors, which takes no connection to know."""
    made = stage.make()
    assert stage.door.texts(made, []) == []
    assert stage.door.images(made, []) == []
    assert stage.wire.connections == 0
