"""Which key is sent to whom."""

import pytest
from pydantic import SecretStr

from nemovlm.errors import AuthenticationError
from nemovlm.wire.address import HOSTED_URL
from tests.adapters.peers.stage import LANGCHAIN, LLAMAINDEX, ONCE, Elsewhere, Stage, row, same
from tests.support.faults import MODEL, vectors_of


@row(
    *(LANGCHAIN, "test_api_key.py", "a hosted base URL without key is one warning"),
    differs="it cannot work, so it is an error, with the name of the variable; before anything is sent",
)
@row(
    *(LLAMAINDEX, "test_api_key.py", "a hosted base URL without key is a ValueError of the constructor"),
    differs="objects are made before keys are there, in tests and in workers; the first use raises before it sends",
)
def test_a_hosted_server_without_a_key_is_an_error_before_anything_is_sent(stage: Stage) -> None:
    """The first use names the variable that is missing, and the constructor says nothing."""
    elsewhere = Elsewhere()
    made = stage.make(base_url=HOSTED_URL, http_client=elsewhere.client)
    for call in (lambda: stage.door.query(made, "a"), lambda: stage.door.texts(made, ["a"])):
        with pytest.raises(AuthenticationError, match="set NVIDIA_API_KEY"):
            call()
    with pytest.raises(AuthenticationError, match="set NVIDIA_API_KEY"):
        _ = made.available_models
    assert not elsewhere.requests


@row(LANGCHAIN, "test_api_key.py", "an unknown URL needs no key")
@row(LLAMAINDEX, "test_api_key.py", "an unknown URL needs no key")
@row(LLAMAINDEX, "test_mode_switch.py", "an unknown URL works without a key")
@row(LANGCHAIN, "L15")
@row(LLAMAINDEX, "I9", "'Bearer NO_API_KEY_PROVIDED' is sent if there is no key")
def test_a_server_of_ones_own_needs_no_key_and_is_sent_none(stage: Stage) -> None:
    """Without a key, no request has an `Authorization`."""
    made = stage.make()
    assert same(stage.door.query(made, "a"), vectors_of(["a"], "query")[0])
    assert made.available_models
    assert {request.headers.get("authorization") for request in stage.wire.requests} == {None}


@row(LANGCHAIN, "test_api_key.py", "nvidia_api_key beats api_key, and both beat NVIDIA_API_KEY")
@row(LLAMAINDEX, "test_api_key.py", "nvidia_api_key beats api_key, and both beat NVIDIA_API_KEY")
@row(LLAMAINDEX, "test_mode_switch.py", "an unknown URL works with a key")
def test_nvidia_api_key_beats_api_key_and_both_beat_the_environment(stage: Stage) -> None:
    """The first of the three that says something is the key that is sent."""
    stage.env.setenv("NVIDIA_API_KEY", "of-the-environment")
    for fields, key in (
        ({"nvidia_api_key": "theirs", "api_key": "ours"}, "theirs"),
        ({"nvidia_api_key": SecretStr("theirs")}, "theirs"),
        ({"nvidia_api_key": "", "api_key": "ours"}, "ours"),
        ({"nvidia_api_key": None, "api_key": "ours"}, "ours"),
        ({"api_key": "ours"}, "ours"),
        ({}, "of-the-environment"),
    ):
        elsewhere = Elsewhere()
        stage.door.query(stage.make(base_url=HOSTED_URL, http_client=elsewhere.client, **fields), "a")
        assert elsewhere.keys == {f"Bearer {key}"}
        if fields:
            stage.door.query(stage.make(**fields), "a")
            assert stage.wire.requests[-1].headers["authorization"] == f"Bearer {key}"


@row(
    *(LANGCHAIN, "test_api_key.py", "NVIDIA_API_KEY is sent to whatever base_url is"),
    differs="a key of NVIDIA's is nobody else's business; api_key or NEMOVLM_API_KEY is sent to a server of one's own",
)
@row(
    *(LLAMAINDEX, "test_api_key.py", "NVIDIA_API_KEY is sent to whatever base_url is"),
    differs="a key of NVIDIA's is nobody else's business; api_key or NEMOVLM_API_KEY is sent to a server of one's own",
)
def test_nvidias_key_goes_to_nvidia_alone(stage: Stage) -> None:
    """A server of one's own never sees `NVIDIA_API_KEY`; it gets `NEMOVLM_API_KEY`."""
    stage.env.setenv("NVIDIA_API_KEY", "nvapi-secret")
    stage.door.query(stage.make(), "a")
    assert {request.headers.get("authorization") for request in stage.wire.requests} == {None}
    stage.env.setenv("NEMOVLM_API_KEY", "own")
    stage.door.query(stage.make(model=MODEL), "a")
    assert stage.wire.requests[-1].headers["authorization"] == "Bearer own"


@row(LANGCHAIN, "test_api_key.py", "a key is kept as SecretStr, and nothing shows it", colors=ONCE)
def test_nothing_shows_a_key(stage: Stage) -> None:
    """A key is a `SecretStr`, and neither an object nor its settings print it."""
    for name in ("api_key", "nvidia_api_key"):
        made = stage.make(**{name: "nvapi-secret"})
        assert made.api_key == SecretStr("nvapi-secret")
        assert "nvapi-secret" not in f"{made!r} {made} {made.model_dump()} {made.embedder!r} {made.embedder.settings!r}"
