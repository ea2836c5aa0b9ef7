"""Where requests go."""

import pytest

from nemovlm.errors import AuthenticationError, ModelNotServedError
from nemovlm.wire.address import HOSTED_URL
from tests.adapters.peers.stage import LANGCHAIN, LLAMAINDEX, ONCE, Elsewhere, Stage, row, same
from tests.support.faults import MODEL, vectors_of


@row(
    *(LANGCHAIN, "test_base_url.py", "NVIDIA's host is the default"),
    differs="documents leave the machine only if that was asked for, by base_url or engine='nim'; a key is no request",
)
@row(
    *(LLAMAINDEX, "test_base_url.py", "NVIDIA's host is the default"),
    differs="documents leave the machine only if that was asked for, by base_url or engine='nim'; a key is no request",
)
def test_nvidias_host_is_asked_only_where_that_was_said(stage: Stage) -> None:
    """Neither a key nor `NVIDIA_BASE_URL` in the environment sends anything away; `engine="nim"` does."""
    elsewhere = Elsewhere()
    stage.env.setenv("NVIDIA_API_KEY", "k")
    stage.env.setenv("NVIDIA_BASE_URL", stage.wire.url)
    assert stage.door.kind(model="nemovlm/pocket").embedder.settings.remote is False
    stage.env.delenv("NVIDIA_BASE_URL")
    stage.door.query(stage.make(engine="nim", http_client=elsewhere.client), "a")
    assert elsewhere.asked == ["POST https://integrate.api.nvidia.com/v1/embeddings"]


@row(LANGCHAIN, "test_base_url.py", "nvidia_base_url beats base_url, and both beat NVIDIA_BASE_URL")
@row(LLAMAINDEX, "test_base_url.py", "base_url beats NVIDIA_BASE_URL")
def test_nvidia_base_url_beats_base_url_and_both_beat_the_environment(stage: Stage) -> None:
    """The first of the three that says something is the one that is asked."""
    nowhere, url = "http://192.0.2.1", stage.wire.url
    for fields, variable in (
        ({"nvidia_base_url": url, "base_url": nowhere}, nowhere),
        ({"nvidia_base_url": None, "base_url": url}, nowhere),
        ({"nvidia_base_url": "", "base_url": url}, nowhere),
        ({"base_url": url}, nowhere),
        ({"engine": "nim"}, url),
    ):
        stage.env.setenv("NVIDIA_BASE_URL", variable)
        assert same(stage.door.query(stage.make(**fields), "a"), vectors_of(["a"], "query")[0])


@row(LANGCHAIN, "test_base_url.py", "what is no http(s) URL, or has a user, a query or a fragment, is a ValueError")
@row(LLAMAINDEX, "test_base_url.py", "what is no URL is a ValueError")
def test_what_is_no_plain_url_is_an_error_of_the_constructor(stage: Stage) -> None:
    """A base URL is http or https, has a host, and neither user nor query nor fragment."""
    for wrong in (
        *("bogus", "http:/", "http://", "http:/oops", "ftp://host", "file:///etc/passwd", "localhost:8000"),
        *("http://user:password@host/v1", "http://user@host", "http://host/v1?key=k", "http://host/v1#top"),
    ):
        with pytest.raises(ValueError, match="base_url"):
            stage.make(base_url=wrong)


@row(LANGCHAIN, "test_base_url.py", "integrate. and ai.api.nvidia.com are hosted, in any spelling, and no others")
@row(LLAMAINDEX, "I8", colors=ONCE)
def test_nvidias_hosts_are_known_in_any_spelling(stage: Stage) -> None:
    """Slashes, ports, capitals and paths do not hide that a server is NVIDIA's, and nothing makes another one so."""
    for url, hosted in (
        (HOSTED_URL, True),
        (f"{HOSTED_URL}/", True),
        ("https://integrate.api.nvidia.com", True),
        ("https://INTEGRATE.API.NVIDIA.COM:443/v1", True),
        ("https://ai.api.nvidia.com/v1/retrieval/snowflake/arctic-embed-l", True),
        ("https://integrate.api.nvidia.com.example.org/v1", False),
        ("https://api.nvidia.com/v1", False),
        ("http://localhost:8000/v1/", False),
        ("http://host/integrate.api.nvidia.com/v1", False),
    ):
        (address,) = stage.make(base_url=url, model=MODEL).embedder.settings.addresses
        assert address.hosted is hosted, url
        if hosted:
            with pytest.raises(AuthenticationError, match="wants a key"):
                stage.door.query(stage.make(base_url=url), "a")


@row(LANGCHAIN, "test_base_url.py", "the prefix of a proxy is kept, and models are listed below it")
@row(LLAMAINDEX, "test_base_url.py", "the prefix of a proxy is kept, and models are listed below it")
def test_the_prefix_of_a_proxy_is_kept(stage: Stage) -> None:
    """Models are listed and texts are embedded below the path of the base URL, with `/v1` at its end or not."""
    for prefix in ("", "/path0", "/path0/path1/path2", "/v1/proxy"):
        for tail in ("", "/", "/v1", "/v1/"):
            elsewhere = Elsewhere()
            made = stage.make(base_url=f"http://proxy.example:81{prefix}{tail}", http_client=elsewhere.client)
            assert same(stage.door.query(made, "a"), vectors_of(["a"], "query")[0])
            base = f"http://proxy.example:81{prefix}/v1"
            assert elsewhere.asked == [f"GET {base}/models", f"POST {base}/embeddings"]


@row(
    *(LANGCHAIN, "test_base_url.py", "a URL that ends in /embeddings, /models or the like is a ValueError"),
    differs="the whole URL of a route is what people have at hand, so it works; any other path may be a prefix, and "
    "if it is none, the first request says so",
)
def test_the_whole_url_of_the_route_is_a_base_url(stage: Stage) -> None:
    """A URL that ends in a route works, be it another one; what is none fails with a hint at `base_url`."""
    for path in ("embeddings", "models", "completions", "chat/completions", "ranking"):
        made = stage.make(base_url=f"{stage.wire.url}/v1/{path}")
        assert same(stage.door.query(made, "a"), vectors_of(["a"], "query")[0])
    with pytest.raises(ModelNotServedError, match=r"404.*check .*base_url"):
        stage.door.query(stage.make(base_url=f"{stage.wire.url}/v1/elsewhere", model=MODEL), "a")


@row(
    *(LANGCHAIN, "test_base_url.py", "NVIDIA_APPEND_API_VERSION=false takes base_url without /v1"),
    differs="a server without /v1 is named by the whole URL of its route; no variable changes what a URL means",
)
def test_no_variable_changes_what_a_url_means(stage: Stage) -> None:
    """`/v1` is added to a base URL and not to the URL of a route, whatever `NVIDIA_APPEND_API_VERSION` is."""
    for value in ("false", "true"):
        stage.env.setenv("NVIDIA_APPEND_API_VERSION", value)
        elsewhere = Elsewhere()
        for url in ("http://host.example/api", "http://host.example/api/embeddings"):
            stage.door.query(stage.make(base_url=url, model=MODEL, http_client=elsewhere.client), "a")
        assert elsewhere.asked == [
            "GET http://host.example/api/v1/models",
            "POST http://host.example/api/v1/embeddings",
            "GET http://host.example/api/models",
            "POST http://host.example/api/embeddings",
        ]


@row(LLAMAINDEX, "I10")
def test_no_model_changes_where_requests_go(stage: Stage) -> None:
    """Models that have an endpoint of their own at NVIDIA's are asked for at `base_url` all the same."""
    for model in ("NV-Embed-QA", "snowflake/arctic-embed-l"):
        elsewhere = Elsewhere()
        made = stage.make(base_url=HOSTED_URL, api_key="k", model=model, http_client=elsewhere.client)
        stage.door.query(made, "a")
        assert made.base_url == HOSTED_URL
        assert set(elsewhere.asked) == {f"POST {HOSTED_URL}/embeddings"}
