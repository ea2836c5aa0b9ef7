"""Replies that a server puts off (202) are asked for until they are there."""

import pytest

from tests.support.faults import FaultServer, says
from tests.support.remote import KEY, TEXTS, Call, all_right, error_of, remote

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize("waits", [0, 1, 3])
async def test_a_reply_that_is_put_off(server: FaultServer, call: Call, waits: int) -> None:
    """202 with NVCF-REQID: the same key asks for the reply until it is there."""
    server.script.append(says(202, b"", NVCF_REQID="abc-123"))
    server.put_off["abc-123"] = waits
    with remote(server, api_key=KEY) as embedder:
        assert all_right(await call(embedder, "embed", TEXTS), TEXTS)
    _, *others = server.sent
    assert [(request.method, request.target) for request in others] == [("GET", "/v2/nvcf/pexec/status/abc-123")] * (
        waits + 1
    )
    assert {request.headers["authorization"] for request in server.sent} == {f"Bearer {KEY}"}


@pytest.mark.parametrize(
    "headers", [{}, {"NVCF_REQID": "../../steal"}, {"NVCF_REQID": ""}], ids=["none", "path", "empty"]
)
async def test_a_reply_that_is_put_off_nobody_knows_where(
    server: FaultServer, call: Call, headers: dict[str, str]
) -> None:
    """202 without a usable id is an error; the key is sent nowhere else."""
    server.always = says(202, b"", **headers)
    with remote(server, api_key=KEY) as embedder:
        error = await error_of(call, embedder)
    assert "NVCF-REQID" in str(error)
    assert error.status == 202
    assert len(server.sent) == 1


async def test_a_reply_that_is_put_off_for_ever(server: FaultServer, call: Call) -> None:
    """`timeout` is the end of asking."""
    server.always = says(202, b"", NVCF_REQID="abc")
    server.put_off["abc"] = 10**9
    with remote(server, timeout=0.2, max_retries=0) as embedder:
        assert "no reply within" in str(await error_of(call, embedder))
