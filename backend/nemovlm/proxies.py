"""Which proxy the environment names for an address: as curl and requests read HTTP_PROXY, ALL_PROXY and NO_PROXY.

httpx reads them by itself, but no client can be made where NO_PROXY has an IPv6 network or brackets in it, and it
knows no networks.
"""

import os
import re
from ipaddress import ip_address, ip_network
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies


class Proxy(NamedTuple):
    """A proxy, and where it is set."""

    url: str
    source: str
    """The name of a variable, or words."""


def proxy_for(url: str) -> Proxy | None:
    """Return the proxy that requests for `url` go through, or None if they go there directly."""
    proxies, parts = getproxies(), urlsplit(url)
    name = next((name for name in (parts.scheme, "all") if proxies.get(name, "").strip()), None)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    if name is None or any(
        _covers(entry, parts.hostname or "", port) for entry in re.split(r"[\s,]+", proxies.get("no", "")) if entry
    ):
        return None
    proxy = proxies[name].strip()
    proxy = re.sub("^socks:", "socks5:", proxy)  # as desktops write it
    # Of both cases, the lower one counts.
    source = max((known for known in os.environ if known.lower() == f"{name}_proxy"), default="the system's settings")
    return Proxy(proxy if "://" in proxy else f"http://{proxy}", source)


def _covers(entry: str, host: str, port: int | None) -> bool:
    """Return whether an entry of NO_PROXY is about a host: `*`, a domain, an address or a network; with a port or not.

    What cannot be read is about none.
    """
    entry = entry.rpartition("://")[2].lower()
    if entry == "*":
        return True
    try:
        return ip_address(host.partition("%")[0]) in ip_network(
            re.sub(r"^\[(.*)\](/\d+)?$", r"\1\2", entry), strict=False
        )
    except ValueError:  # one of them is a name, or there is a port
        pass
    try:
        parts = urlsplit(f"//{entry}")
        if parts.port not in {None, port}:
            return False
    except ValueError:
        return False
    domain = (parts.hostname or "").removeprefix("*").strip(".")
    return bool(domain) and (host == domain or host.endswith(f".{domain}"))
