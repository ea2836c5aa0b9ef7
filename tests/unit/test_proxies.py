"""Which addresses the environment has a proxy for."""

import os

import pytest

from nemovlm.proxies import proxy_for


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start without those that the tester's environment has."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("no_proxy", "direct", "through"),
    [
        ("*", ["http://host", "https://[::1]:8000"], []),
        ("example.com", ["http://example.com", "http://A.Example.com:1"], ["http://badexample.com", "http://com"]),
        (".example.com", ["http://example.com", "http://a.b.example.com"], ["http://example.org"]),
        ("*.Example.COM", ["http://a.example.com"], ["http://other"]),
        ("host:8000", ["http://host:8000"], ["http://host", "http://host:80"]),
        ("host:443", ["https://host"], ["http://host"]),
        ("http://host", ["http://host"], ["http://other"]),
        ("host.", ["http://host"], []),
        ("::1", ["http://[::1]:8000"], ["http://[::2]"]),
        ("[::1]", ["http://[::1]"], ["http://127.0.0.1"]),
        ("[::1]:8000", ["http://[::1]:8000"], ["http://[::1]:8001"]),
        ("fd07:b51a:cc66::/64", ["http://[fd07:b51a:cc66::5]"], ["http://[fd07:b51a:cc67::5]", "http://10.0.0.1"]),
        ("[fd00::]/8", ["http://[fd07::5]"], ["http://[::1]"]),
        ("fe80::/10", ["http://[fe80::1%eth0]"], []),
        ("10.0.0.0/8", ["http://10.1.2.3:8000"], ["http://11.1.2.3", "http://ten"]),
        ("10.1.2.3/8", ["http://10.9.9.9"], []),
        (" a ,, b\tc,", ["http://a", "http://b", "http://c"], ["http://d"]),
        ("[,::/999,[::,10.0.0.300,a:b,/,.", [], ["http://host", "http://[::1]"]),
    ],
)
@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_addresses_without_a_proxy(
    monkeypatch: pytest.MonkeyPatch, name: str, no_proxy: str, direct: list[str], through: list[str]
) -> None:
    """Domains, addresses and networks, with a port or without; what cannot be read concerns nobody."""
    monkeypatch.setenv("ALL_PROXY", "http://proxy:3128")
    monkeypatch.setenv(name, no_proxy)
    assert [proxy_for(url) for url in direct] == [None] * len(direct)
    assert all(proxy_for(url) for url in through)


@pytest.mark.parametrize(
    ("variables", "url", "proxy"),
    [
        ({}, "http://host", None),
        ({"HTTP_PROXY": "http://p"}, "http://host", ("http://p", "HTTP_PROXY")),
        ({"HTTP_PROXY": "http://p"}, "https://host", None),
        ({"https_proxy": " p:3128 "}, "https://host", ("http://p:3128", "https_proxy")),
        ({"HTTP_PROXY": "http://p", "http_proxy": "http://q"}, "http://host", ("http://q", "http_proxy")),
        ({"ALL_PROXY": "socks://p:1080/", "HTTP_PROXY": " "}, "http://host", ("socks5://p:1080/", "ALL_PROXY")),
        ({"ALL_PROXY": "socks5://p", "HTTPS_PROXY": "http://q"}, "https://host", ("http://q", "HTTPS_PROXY")),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="variables have no case there")
def test_where_a_proxy_comes_from(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], url: str, proxy: tuple[str, str] | None
) -> None:
    """The variable of the scheme beats ALL_PROXY, and each is known by its name."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert proxy_for(url) == proxy
