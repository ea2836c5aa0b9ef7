"""The HTTP client of a remote engine: timeouts, connections, proxy and certificates."""

import os
import ssl
from importlib.metadata import version
from pathlib import Path

import httpx

from nemovlm.errors import ConfigurationError, one_line
from nemovlm.proxies import Proxy, proxy_for
from nemovlm.settings import Settings

_CONNECT_SECONDS = 10.0
# Below the 60 seconds after which common proxies drop an idle connection.
_IDLE_SECONDS = 30.0

# httpx's own come first; then those of requests, which many have set for other clients.
_CERTIFICATE_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")

# By the codes of OpenSSL's `X509_V_ERR_*`. All others are of certificates that nobody here vouches for.
_CERTIFICATE_ADVICE = {
    9: "; it is not valid yet: check the clocks",
    10: "; have it renewed",
    62: "; base_url must have a name that the certificate is made for",
    64: "; base_url must have an address that the certificate is made for",
}


def make_client(settings: Settings) -> httpx.AsyncClient:
    """Return the client that `http_client` is or makes, or else one of our own. It opens no connection yet.

    Reads files, so it is nothing for an event loop.

    Raises:
        ConfigurationError: `http_client` is no client, or proxy or certificates cannot be used.
    """
    given = settings.http_client
    client = given() if callable(given) else given or _own_client(settings)
    if not isinstance(client, httpx.AsyncClient):
        raise ConfigurationError("http_client must be an httpx.AsyncClient, or a function that makes one")
    return client


def describe_failure(error: Exception) -> str:
    """Return what failed, without addresses that may hold secrets, and for a certificate what to do."""
    said = f"{type(error).__name__}{f' ({text})' if (text := str(error)) else ''}"
    cause: BaseException | None = error
    while cause and not isinstance(cause, ssl.SSLCertVerificationError):
        cause = cause.__cause__ or cause.__context__
    if not isinstance(cause, ssl.SSLCertVerificationError):
        return said
    unknown = "; to trust it, pass the file of its authority as verify, or set SSL_CERT_FILE"
    return said + _CERTIFICATE_ADVICE.get(cause.verify_code, unknown)


def _own_client(settings: Settings) -> httpx.AsyncClient:
    certificates = _certificates(settings)
    limits = httpx.Limits(
        max_connections=None,
        max_keepalive_connections=settings.max_concurrency * len(settings.addresses),
        keepalive_expiry=_IDLE_SECONDS,
    )
    proxies: dict[str, httpx.AsyncBaseTransport] = {}
    for origin in {origin for address in settings.addresses for origin in address.origins}:
        if proxy := Proxy(settings.proxy, "proxy") if settings.proxy else proxy_for(origin):
            proxies[origin] = _transport(proxy, certificates, limits)
    return httpx.AsyncClient(
        timeout=httpx.Timeout(settings.timeout, connect=min(_CONNECT_SECONDS, settings.timeout), pool=None),
        limits=limits,
        verify=certificates,
        mounts=proxies,
        trust_env=False,  # its reading of proxies and certificates is ours
        headers={"User-Agent": f"nemovlm/{version('nemovlm')}"},
    )


def _transport(proxy: Proxy, certificates: ssl.SSLContext, limits: httpx.Limits) -> httpx.AsyncHTTPTransport:
    try:
        return httpx.AsyncHTTPTransport(verify=certificates, limits=limits, proxy=proxy.url)
    except ImportError as error:
        raise ConfigurationError(f"{proxy.source} names a SOCKS proxy: pip install 'httpx[socks]'") from error
    except (ValueError, httpx.InvalidURL) as error:  # it may hold a password, so it is not shown
        raise ConfigurationError(
            f"{proxy.source} cannot be used: a proxy must be an http:// or https:// address, or a socks5:// one"
        ) from error


def _certificates(settings: Settings) -> ssl.SSLContext:
    encrypted = any(address.base.startswith("https:") for address in settings.addresses)
    source, trusted = "verify", settings.verify
    if trusted is True:
        if not encrypted and not settings.cert:
            # It trusts nobody, and nobody is asked; the real one takes 50 ms.
            return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if name := next((name for name in _CERTIFICATE_VARIABLES if os.environ.get(name)), None):
            source, trusted = name, Path(os.environ[name])
    try:
        if isinstance(trusted, bool):
            context = httpx.create_ssl_context(verify=trusted, trust_env=False)
        elif all(Path(part).expanduser().is_dir() for part in str(trusted).split(os.pathsep)):
            context = ssl.create_default_context(capath=os.path.expanduser(trusted))  # or several, as OpenSSL has it
        else:
            context = ssl.create_default_context(cafile=trusted.expanduser())
    except OSError as error:  # ssl.SSLError is one
        raise ConfigurationError(f"{source}={trusted} cannot be used: {one_line(error)}") from error
    try:
        if settings.cert:
            file, key = settings.cert if isinstance(settings.cert, tuple) else (settings.cert, None)
            context.load_cert_chain(file.expanduser(), key and key.expanduser())
    except OSError as error:
        raise ConfigurationError(f"cert={settings.cert} cannot be used: {one_line(error)}") from error
    return context
