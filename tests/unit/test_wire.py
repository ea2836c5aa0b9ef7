"""The protocols of remote engines without sockets: whatever a server says, it is read right or refused."""

import base64
import json
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nemovlm.engines.remote.retry import backoff
from nemovlm.engines.remote.upstream import Upstream
from nemovlm.errors import ConfigurationError, EngineError, InputTooLongError, NemoVLMError, ProtocolError
from nemovlm.images import Encoded
from nemovlm.wire.address import parse_address
from nemovlm.wire.batching import next_request
from nemovlm.wire.nim import Dialect, NimItem, encode_item, request_body
from nemovlm.wire.problems import Problem, read_problem
from nemovlm.wire.quantize import DTYPES, EmbeddingType, dequantize, quantize
from nemovlm.wire.replies import GarbledReplyError, read_models, read_reply
from nemovlm.wire.retry_after import RETRYABLE_STATUSES, retry_after

ADDRESS = parse_address("http://127.0.0.1:8000")
FOREVER = 4_000_000_000

ENTRIES = st.builds(
    NimItem,
    st.text(max_size=80).map(lambda text: json.dumps(text).encode()),
    st.just("text"),
    st.sampled_from(["query", "passage"]),
    st.sampled_from(["NONE", "END"]),
)
# JSON as servers might make it, with the words that errors are read from.
WORDS = st.sampled_from(["error", "message", "detail", "title", "type", "object", "msg", "loc", "input", "requestId"])
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS | st.text(max_size=5), inner, max_size=5),
    max_leaves=20,
)
KEYS = st.text("abcdefghijkXYZ0123456789-_.", min_size=8, max_size=40)


# Which items travel together


@given(waiting=st.dictionaries(st.integers(0, 9999), ENTRIES, min_size=1, max_size=40), data=st.data())
def test_requests_cover_all_that_waits(waiting: dict[int, NimItem], data: st.DataObject) -> None:
    """Each takes the oldest, stays in order and within the limits, and mixes no roles; together they take all once."""
    max_items = data.draw(st.integers(1, 12))
    max_bytes = data.draw(st.integers(1, 400))
    waiting = dict(sorted(waiting.items()))
    sent: Counter[int] = Counter()
    while waiting:
        chosen = next_request(waiting, max_items, max_bytes)
        entries = [waiting[number] for number in chosen]
        assert chosen[0] == next(iter(waiting))
        assert chosen == sorted(set(chosen))
        assert len({(item.input_type, item.truncate) for item in entries}) == 1
        assert len(chosen) <= max_items
        assert len(chosen) == 1 or sum(item.size for item in entries) <= max_bytes
        sent.update(chosen)
        waiting = {number: item for number, item in waiting.items() if number not in chosen}
    assert set(sent.values()) == {1}


def test_a_request_is_as_full_as_it_may_be() -> None:
    """Items of another role in between do not end it; one that is too large for the rest of it does."""
    roles = ["query", "passage", "query", "query", "passage", "query"]
    waiting = {number: NimItem(b'"xxxxxxxx"', "text", role, "NONE") for number, role in enumerate(roles)}
    size = waiting[0].size
    assert next_request(waiting, 64, 3 * size) == [0, 2, 3]
    assert next_request(waiting, 64, 10**6) == [0, 2, 3, 5]
    assert next_request(waiting, 2, 10**6) == [0, 2]
    assert next_request(waiting, 64, 1) == [0]


@given(entries=st.lists(ENTRIES, min_size=1, max_size=20))
def test_sizes_are_those_of_the_request(entries: list[NimItem]) -> None:
    """What items are said to add to a request is what they add, in any language."""
    around = len(request_body([NimItem(b'""', *_kind(entries[0]))], "model", Dialect()))
    body = request_body(entries, "model", Dialect())
    assert len(body) <= around + sum(item.size for item in entries)
    assert [json.loads(item.encoded) for item in entries] == json.loads(body)["input"]


def _kind(item: NimItem) -> tuple[Any, Any, Any]:
    return item.modality, item.input_type, item.truncate


def test_a_server_that_knows_little() -> None:
    """Without `input_type` the role goes with the name of the model, and what was given up is not sent."""
    item = encode_item("query", "x", None, "NONE", "newline")
    little = Dialect(encoding_format=False, modality=False, dimensions=False, input_type=False)
    assert json.loads(request_body([item], "acme/one", little, dimensions=5)) == {
        "model": "acme/one-query",
        "input": ["x"],
        "truncate": "NONE",
    }


def test_images_are_passages() -> None:
    """A NIM takes no image as a query."""
    assert encode_item("query", "text", Encoded(b"x", "image/png"), "NONE", "newline").input_type == "passage"


# Replies


@settings(deadline=None)
@given(count=st.integers(1, 12), size=st.integers(1, 9), data=st.data())
def test_rows_come_back_in_the_order_of_the_request(count: int, size: int, data: st.DataObject) -> None:
    """Any permutation, numbers or base64, is the same reply."""
    exact = np.arange(count * size, dtype=np.float32).reshape(count, size)
    rows = []
    for index in data.draw(st.permutations(range(count))):
        coded = base64.b64encode(exact[index].astype("<f4").tobytes()).decode()
        rows.append({"index": index, "embedding": coded if data.draw(st.booleans()) else exact[index].tolist()})
    vectors, tokens = read_reply(json.dumps({"data": rows, "usage": {"prompt_tokens": 7}}).encode(), count)
    assert np.array_equal(np.stack(vectors), exact)
    assert all(vector.dtype == np.float32 for vector in vectors)
    assert tokens == 7


@given(indexes=st.lists(st.integers(-1, 5) | st.none() | st.booleans() | st.floats(0, 5), min_size=1, max_size=5))
def test_rows_that_are_numbered_wrong(indexes: list[object]) -> None:
    """Unless the indexes are 0 to n-1, each once and integers, nothing is taken."""
    assume(sorted(map(str, indexes)) != sorted(map(str, range(len(indexes)))) and indexes != [None])
    rows = [{"index": index, "embedding": [1.0]} for index in indexes]
    with pytest.raises(ProtocolError):
        read_reply(json.dumps({"data": rows}).encode(), len(indexes))


def test_fields_that_are_null() -> None:
    """What nobody needs may be null or not there, and the number of a row where there is one alone."""
    row: dict[str, object] = {"index": None, "embedding": [1.0, 2.0], "object": None, "new": {}}
    reply = {"data": [row], "model": None, "usage": None, "id": None}
    vectors, tokens = read_reply(json.dumps(reply).encode(), 1)
    assert (vectors[0].tolist(), tokens) == ([1.0, 2.0], 0)
    for wrong in ({"data": None}, {"data": [None]}, {"data": [row | {"embedding": None}]}, {"data": [row, row]}):
        with pytest.raises(ProtocolError):
            read_reply(json.dumps(wrong).encode(), len(wrong["data"] or [0]))
    models = {"data": [{"id": "a", "root": None, "owned_by": None}, {"id": None}, {"id": "a"}]}
    assert [model.id for model in read_models(json.dumps(models).encode())] == ["a"]


@settings(deadline=None)
@given(
    content=st.binary(max_size=60)
    | ANY_JSON.map(lambda body: json.dumps(body).encode())
    | ANY_JSON.map(lambda body: json.dumps({"data": body}).encode())
    | st.lists(ANY_JSON, min_size=1, max_size=3).map(
        lambda parts: json.dumps({"data": [{"index": i, "embedding": part} for i, part in enumerate(parts)]}).encode()
    ),
    count=st.integers(1, 3),
    kind=st.sampled_from(list(DTYPES)),
)
def test_any_reply_is_read_or_refused(content: bytes, count: int, kind: EmbeddingType) -> None:
    """A reply gives `count` vectors of one size, not of none, or it is a `ProtocolError`."""
    for read in (read_models, lambda reply: read_reply(reply, count, kind)):
        try:
            result = read(content)
        except ProtocolError:
            continue
        if isinstance(result, tuple):
            vectors, _ = result
            assert len(vectors) == count
            assert {vector.shape for vector in vectors} == {vectors[0].shape}
            assert vectors[0].size > 0


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b'{"data": 1' + b"0" * 10_000 + b"}", b"\xff\xfe"])
def test_a_garbled_reply_is_worth_another_attempt(content: bytes) -> None:
    """What is no JSON may have been cut off on its way."""
    with pytest.raises(GarbledReplyError):
        read_reply(content, 1)
    with pytest.raises(ProtocolError):
        read_models(content)


# Vectors in fewer bytes


@given(
    numbers=st.lists(st.floats(-1, 1, width=32), min_size=8, max_size=96).filter(
        lambda numbers: len(numbers) % 8 == 0 and max(map(abs, numbers)) > 1e-3
    ),
    kind=st.sampled_from(list(DTYPES)),
)
def test_quantized_vectors_come_back(numbers: list[float], kind: EmbeddingType) -> None:
    """`int8` and `uint8` nearly, `float` exactly, and of packed bits the signs."""
    vector = np.array(numbers, np.float32)
    packed = quantize(vector, kind)
    back = dequantize(packed, kind)
    assert packed.dtype == DTYPES[kind]
    assert back.dtype == np.float32
    assert back.shape == vector.shape
    if kind in {"binary", "ubinary"}:
        assert packed.size * 8 == vector.size
        assert np.array_equal(back > 0, vector > 0)
        assert set(np.abs(back)) == {1.0}
    elif kind == "float":
        assert np.array_equal(back, vector)
    else:
        # Rounding moves each component by half of 1/127 of the largest, at the most.
        assert np.abs(back * (np.abs(vector).max() / 127) - vector).max() <= np.abs(vector).max() / 254 * 1.01
        wide = np.random.default_rng(0).standard_normal(2048).astype(np.float32)
        again = dequantize(quantize(wide, kind), kind)
        assert wide @ again / np.linalg.norm(wide) / np.linalg.norm(again) > 0.999


def test_bits_are_packed_as_everybody_does() -> None:
    """The first component is the highest bit; `binary` is `ubinary` less 128."""
    vector = np.array([1, -1, -1, -1, -1, -1, -1, -1, 1, 1, 1, 1, 1, 1, 1, 1], np.float32)
    assert quantize(vector, "ubinary").tolist() == [128, 255]
    assert quantize(vector, "binary").tolist() == [0, 127]
    assert quantize(np.array([1, -1, 0.5], np.float32), "int8").tolist() == [127, -127, 64]
    assert quantize(np.array([1, -1, 0], np.float32), "uint8").tolist() == [255, 1, 128]


# What went wrong


@settings(deadline=None)
@given(
    status=st.integers(201, 599),
    content=st.binary(max_size=99) | ANY_JSON.map(lambda body: json.dumps(body).encode()),
    key=KEYS,
    before=st.text(max_size=9),
    data=st.data(),
)
def test_any_reply_is_a_problem(status: int, content: bytes, key: str, before: str, data: st.DataObject) -> None:
    """Whatever a server answers becomes an error of ours, and the key is nowhere in it."""
    assume(key not in "the item alone is over the server's limit: check api_key")
    echoed = data.draw(
        st.sampled_from(
            [
                content,
                f"{before}{key}".encode() + content,
                json.dumps({"error": f"{before} {key}", "detail": content.decode(errors="replace") + key}).encode(),
                json.dumps({"detail": [{"loc": ["body", "input", 0], "msg": before + key}]}).encode(),
                json.dumps({"requestId": key, "title": key}).encode(),
                f"<b>{key}</b>".encode(),
            ]
        )
    )
    problem = read_problem("host", status, httpx.Headers({"location": f"http://x/{key}"}), echoed, [key])
    assert key not in repr(problem)
    for modality in ("text", "image"):
        for position in (None, 0):
            error = problem.error(modality, position)
            assert isinstance(error, NemoVLMError)
            assert error.status == status
            assert key not in f"{error} {error!r} {vars(error)}"
    assert problem.retryable == (status in RETRYABLE_STATUSES)
    assert not (problem.retryable and status < 408)


@pytest.mark.parametrize(
    "content",
    [
        b"<style " * 14_000,
        b"<style <script " * 7_000,
        b"<" * 100_000,
        b"modality " * 11_000,
        b"input" * 20_000,
        b"&amp;" * 20_000,
        b"bearer " * 14_000,
        b"data:" * 20_000,
        b"data:" + b"a" * 99_000,
        b"A" * 100_000,
        b"[" * 100_000,
        b'{"error":' * 900 + b"1" + b"}" * 900,
    ],
)
def test_reading_what_went_wrong_is_quick(content: bytes) -> None:
    """No text keeps the loop busy: it is read in linear time, which is milliseconds where quadratic is seconds."""
    started = time.process_time()
    read_problem("host", 400, {}, content, ["key-0123456789"])
    assert time.process_time() - started < 1.0


@pytest.mark.parametrize("loc", [3, "input", {"a": 1}, None, [], [None], ["body", "input"], ["body", "input", "x"]])
def test_places_that_are_none(loc: object) -> None:
    """A validation error with an odd place is read all the same, and blames nobody."""
    problem = read_problem("host", 422, {}, json.dumps({"detail": [{"loc": loc, "msg": "odd"}]}).encode(), [])
    assert "odd" in problem.message
    assert not problem.items
    assert problem.divisible


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"error": "This model does not support 'dimensions', but a value of '2048' was provided."}, ["dimensions"]),
        ({"error": "detail={'type':'extra_forbidden','loc':('body','modality'),'msg':'Extra inputs'}"}, ["modality"]),
        ({"message": "Argument `encoding_format` not understood"}, ["encoding_format"]),
        ({"error": "Encoding format base64: no"}, ["encoding_format"]),
        ({"error": "inputType? embedding-type? Modalities?"}, ["input_type", "embedding_type", "modality"]),
        ({"detail": [{"loc": ["body", "modality"], "msg": "what is input_type to you"}]}, ["modality", "input_type"]),
        ({"error": {"message": "neither dimensions nor this", "param": "modality"}}, ["modality", "dimensions"]),
        ({"detail": [{"loc": ["body", "input", 0], "msg": "modality is not supported", "input": "modality"}]}, []),
        ({"detail": [{"loc": ["body"], "msg": "no", "input": {"dimensions": 5}}]}, []),
        ({"error": "the input is too long for embedding_dimensions_of_mine"}, []),
    ],
)
def test_fields_that_a_refusal_names(body: object, fields: list[str]) -> None:
    """In whatever words: those first that stand where a server names fields. What an item is blamed for is not read."""
    content = json.dumps(body).encode()
    assert list(read_problem("host", 422, {}, content, []).fields) == fields
    assert not read_problem("host", 403, {}, content, []).fields


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"error": {"message": "no credits", "code": 402}}, 402),
        ({"error": {"message": "slow down", "status": "429"}}, 429),
        ({"message": "no", "statusCode": 503}, 503),
        ([{"error": {"code": 401, "message": "no"}}], 401),
        ({"error": {"message": "no", "code": "4020"}}, 200),
        ({"error": {"message": "no", "code": 7}, "status": "error"}, 200),
        ({"error": "no", "code": None}, 200),
        ("no", 200),
        ([], 200),
    ],
)
def test_an_error_in_a_reply_of_status_200(body: object, status: int) -> None:
    """The status that stands in it is the one that counts, with what belongs to it."""
    problem = read_problem("host", 200, {"retry-after": "7"}, json.dumps(body).encode(), [])
    assert problem.status == status
    assert problem.retry_after == (7 if status in {429, 503} else None)
    assert read_problem("host", 400, {}, json.dumps(body).encode(), []).status == 400
    assert isinstance(problem.error("text"), EngineError)


@pytest.mark.parametrize(
    "said",
    [
        "Input length 576 exceeds maximum allowed token size 512",
        "This model's maximum context length is 512 tokens. However, you requested 576 tokens",
        "the input exceeds the maximum sequence length",
    ],
)
def test_texts_that_are_too_long(said: str) -> None:
    """Servers have several words for it; where numbers are given, the error has them."""
    error = read_problem("host", 422, {}, json.dumps({"detail": said}).encode(), []).error("text")
    assert isinstance(error, InputTooLongError)
    assert (error.tokens, error.limit) == ((576, 512) if "576 exceeds" in said else (0, 0))
    assert "truncate" in str(error)


def test_long_words_are_cut() -> None:
    """A message is a sentence or two, whatever the server sends."""
    problem = read_problem("host", 500, {}, b"so " * 30_000, [])
    assert len(str(problem.error("text"))) < 400


# When to come back


@given(seconds=st.integers(1, 10**6))
def test_retry_after_a_number_or_a_date(seconds: int) -> None:
    """Both spellings of Retry-After mean the same; a date that has passed asks for nothing."""
    now = datetime(2030, 1, 1, tzinfo=UTC)
    for zone in (UTC, None):
        date = format_datetime((now + timedelta(seconds=seconds)).replace(tzinfo=zone))
        assert retry_after({"retry-after": date}, now) == seconds
    assert retry_after({"retry-after": f" {seconds} "}) == seconds
    assert retry_after({"retry-after": format_datetime(now - timedelta(seconds=seconds))}, now) is None


@given(value=st.text(max_size=40) | st.from_regex(r"[A-Z][a-z]{2}, \d+ Nov \d+ \d+:\d+:\d+ [+-]\d+", fullmatch=True))
def test_any_retry_after(value: str) -> None:
    """It is a number of seconds, or it is not there."""
    seconds = retry_after({"retry-after": value})
    assert seconds is None or 0 < seconds < float("inf")


@pytest.mark.parametrize(
    "value",
    [
        "",
        "soon",
        "nan",
        "inf",
        "-inf",
        "0",
        "-5",
        "0.0",
        "Mon, 20 Nov 1995 19:12:08 +9999999999999999",
        "Mon, 20 Nov 99999 19:12:08 GMT",
    ],
)
def test_retry_after_that_says_nothing(value: str) -> None:
    """What is no number, no date, or no time to wait, is as if it were not there."""
    assert retry_after({"retry-after": value}) is None
    assert retry_after({}) is None


# Addresses


@given(
    scheme=st.sampled_from(["http", "https"]),
    host=st.sampled_from(["localhost", "10.0.0.7", "[::1]", "nim.example.com"]),
    port=st.sampled_from(["", ":8000"]),
    prefix=st.lists(st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True), max_size=3),
    end=st.sampled_from(
        [
            "",
            "/",
            "//",
            "/v1",
            "/V1",
            "//v1//",
            "/v1/embeddings",
            "/v1/embeddings/",
            "/v1/models",
            "/v1/chat/completions/",
        ]
    ),
    around=st.sampled_from([" {}\n", '"{}"', " '{}' "]),
)
def test_spellings_of_an_address(scheme: str, host: str, port: str, prefix: list[str], end: str, around: str) -> None:
    """All spellings of one server are one address."""
    assume("embeddings" not in prefix and "v1" not in prefix)
    root = "/".join([f"{scheme}://{host}{port}", *prefix])
    address = parse_address(around.format(root + end))
    assert address.embeddings == f"{root}/v1/embeddings"
    assert address.base == f"{root}/v1"
    assert address.host == f"{host}{port}"
    assert not address.hosted
    assert address.status("id") == f"{scheme}://{host}{port}/v2/nvcf/pexec/status/id"


@pytest.mark.parametrize(
    ("url", "embeddings"),
    [
        ("HTTP://Nim.Example.COM:8000/V1", "http://nim.example.com:8000/v1/embeddings"),
        ("https://nim.example.com./Team//nim", "https://nim.example.com/Team/nim/v1/embeddings"),
        ("http://[FE80::1%eth0]:8000", "http://[fe80::1%eth0]:8000/v1/embeddings"),
        ("http://host/retrieval/embeddings/", "http://host/retrieval/embeddings"),
        ("http://host/v1/team", "http://host/v1/team/v1/embeddings"),
        ("https://INTEGRATE.api.nvidia.com./v1", "https://integrate.api.nvidia.com/v1/embeddings"),
    ],
)
def test_addresses_as_people_write_them(url: str, embeddings: str) -> None:
    """Capitals and dots make no difference in a host; in a path they do."""
    assert parse_address(url).embeddings == embeddings


@given(url=st.text(max_size=30) | st.text(max_size=20).map(lambda rest: f"http://{rest}"))
def test_any_text_as_an_address(url: str) -> None:
    """It is one, or a `ConfigurationError` that says so."""
    try:
        address = parse_address(url)
    except ConfigurationError:
        return
    assert address.embeddings.startswith(("http://", "https://"))
    assert address.embeddings.endswith("/embeddings")
    assert address.host


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("localhost:8000", "did you mean 'http://localhost:8000'"),
        ("ftp://host", "no http"),
        ("http://user:secret@host", "no user or password"),
        ("http://host/v1?key=secret", "no query"),
        ("http://host:99999", "no valid URL"),
        ("http://host:port", "no valid URL"),
        ("http://", "no http"),
        ("http://.", "no http"),
        ("http://ho st", "no http"),
        ("http://integrate.api.nvidia.com/v1", "would send a key in clear"),
    ],
)
def test_addresses_that_are_none(url: str, words: str) -> None:
    """The error says what is wrong, and shows no secret."""
    with pytest.raises(ConfigurationError, match=words) as raised:
        parse_address(url)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("host", ["integrate.api.nvidia.com", "ai.api.nvidia.com", "INTEGRATE.api.nvidia.com"])
def test_nvidias_own_hosts(host: str) -> None:
    """Only those are hosted, and only theirs are asked for late replies at NVIDIA's."""
    assert parse_address(f"https://{host}/v1").hosted
    assert parse_address(f"https://{host}/v1").status("x") == "https://api.nvcf.nvidia.com/v2/nvcf/pexec/status/x"
    for other in (f"{host}.evil.test", f"evil.test/{host}", f"x{host}"):
        assert not parse_address(f"https://{other}").hosted


# How a server is treated


def problem(status: int | None, after: float | None = None) -> Problem:
    return Problem("what went wrong", "host", status, retry_after=after)


def test_a_busy_server_gets_less_and_then_more_again() -> None:
    """Additive increase, multiplicative decrease: halved once for all that were under way, never below one."""
    server = Upstream(ADDRESS, 8, 8)
    sent = time.monotonic()
    for _ in range(8):
        server.record_failure(problem(429), sent)
    assert server.limit == 4
    for expected in (2, 1, 1):
        server.record_failure(problem(503), FOREVER)  # as if sent since
        server.last_backoff_at = 0.0
        assert server.limit == expected
    grown = []
    for _ in range(60):
        server.record_success()
        grown.append(server.limit)
    assert grown == sorted(grown)
    assert grown[0] == 2
    assert grown[-1] == 8
    for status in (408, 500, 502, 504, None):
        server.record_failure(problem(status), FOREVER)
    assert server.limit == 8


def test_too_many_is_no_fault() -> None:
    """A rate limit never sets a server aside by itself."""
    server = Upstream(ADDRESS, 8, 8)
    for _ in range(20):
        server.record_failure(problem(429), FOREVER)
    assert not server.cooldown
    assert server.failures_in_a_row == 0


def test_a_server_that_fails_is_set_aside() -> None:
    """At once if it cannot be reached, else after three faults in a row; twice as long each time, up to 30 seconds."""
    gone, failing = Upstream(ADDRESS, 8, 8), Upstream(ADDRESS, 8, 8)
    gone.record_failure(problem(None), FOREVER, unreachable=True)
    assert 0 < gone.cooldown <= 1
    broken_off = Upstream(ADDRESS, 8, 8)
    broken_off.record_failure(problem(None), FOREVER)
    assert not broken_off.cooldown
    for _ in range(2):
        failing.record_failure(problem(500), FOREVER)
    assert not failing.cooldown
    for longest in (1, 2, 4, 8, 16, 30, 30):
        failing.record_failure(problem(500), FOREVER)
        assert longest - 1 < failing.cooldown <= longest
    failing.record_success()
    failing.cooldown_until = 0.0
    failing.record_failure(problem(500), FOREVER)
    assert not failing.cooldown


def test_connections_that_break_together_are_one_fault() -> None:
    """A server that restarts breaks all requests under way, and is not set aside for longer because they were many."""
    server = Upstream(ADDRESS, 8, 8)
    sent = time.monotonic()
    for _ in range(8):
        server.record_failure(problem(None), sent)
    assert server.failures_in_a_row == 1
    assert not server.cooldown


def test_a_server_is_left_alone_for_as_long_as_it_asks() -> None:
    """`Retry-After` sets it aside for that long, and a shorter one later shortens nothing."""
    server = Upstream(ADDRESS, 8, 8)
    server.record_failure(problem(503, after=50), FOREVER)
    server.record_failure(problem(429, after=2), FOREVER)
    server.record_success()
    assert 45 < server.cooldown <= 50


def test_a_server_is_left_alone_for_longer_than_it_asks() -> None:
    """One that fails and fails, and asks for next to nothing each time, is set aside like one that does not ask."""
    server = Upstream(ADDRESS, 8, 8)
    for _ in range(2000):  # more than powers of two fit into a float
        server.record_failure(problem(503, after=0.001), FOREVER)
    assert 29 < server.cooldown <= 30


def test_waits_grow() -> None:
    """Full jitter: uniform between nothing and twice as much each time, up to half a minute."""

    class State:
        attempt_number = 1

    longest = []
    for State.attempt_number in range(1, 9):
        longest.append(max(backoff(State) for _ in range(300)))  # type: ignore[arg-type]
    assert longest[0] <= 1
    assert longest[2] <= 4
    assert 15 < longest[-1] <= 30
