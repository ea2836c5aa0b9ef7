"""The HTTP client of a remote engine: timeouts, connections, proxy and certificates."""

import ssl
from importlib.metadata import version

import httpx

from nemovlm.errors import ConfigurationError, one_line
from nemovlm.settings import Settings

_CONNECT_SECONDS = 10.0
# Below the 60 seconds after which common proxies drop an idle connection.
_IDLE_SECONDS = 30.0


def make_client(settings: Settings) -> httpx.AsyncClient:
    """Return the client that `http_client` is or makes, or else one of our own. It opens no connection yet.

    Raises:
        ConfigurationError: `http_client` is no client, or proxy or certificates cannot be used.
    """
    given = settings.http_client
    client = given() if callable(given) else given or _own_client(settings)
    if not isinstance(client, httpx.AsyncClient):
        raise ConfigurationError("http_client must be an httpx.AsyncClient, or a function that makes one")
    return client


def describe_failure(error: Exception) -> str:
    """Return what failed, without addresses that may hold secrets."""
    return f"{type(error).__name__}{f' ({text})' if (text := str(error)) else ''}"


def _own_client(settings: Settings) -> httpx.AsyncClient:
    certificates = _certificates(settings)
    try:
        return httpx.AsyncClient(
            timeout=httpx.Timeout(settings.timeout, connect=min(_CONNECT_SECONDS, settings.timeout), pool=None),
            limits=httpx.Limits(
                max_connections=None,
                max_keepalive_connections=settings.max_concurrency * len(settings.addresses),
                keepalive_expiry=_IDLE_SECONDS,
            ),
            verify=certificates,
            proxy=settings.proxy,
            headers={"User-Agent": f"nemovlm/{version('nemovlm')}"},
        )
    except (ValueError, ImportError, httpx.InvalidURL) as error:  # it may hold a password, so it is not shown
        raise ConfigurationError(
            "the proxy (the setting, or HTTP_PROXY, HTTPS_PROXY or ALL_PROXY) cannot be used: it must be an http:// or "
            "https:// address, or a socks5:// one where httpx[socks] is installed"
        ) from error


def _certificates(settings: Settings) -> ssl.SSLContext | bool:
    encrypted = any(address.base.startswith("https:") for address in settings.addresses)
    if settings.verify is True and not encrypted and not settings.cert:
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts nobody, and nobody is asked; the real one takes 50 ms
    try:
        if isinstance(settings.verify, bool):
            context = httpx.create_ssl_context(verify=settings.verify)
        else:
            context = ssl.create_default_context(cafile=settings.verify)
        if settings.cert:
            context.load_cert_chain(*settings.cert if isinstance(settings.cert, tuple) else (settings.cert,))
    except OSError as error:  # ssl.SSLError is one
        raise ConfigurationError(
            f"verify={settings.verify} or cert={settings.cert} cannot be used: {one_line(error)}"
        ) from error
    return context
