"""Where this server may send something that somebody else asked it to send: not into the network behind it.

A URL is refused when its host is, or resolves to, an address that is not public. What was resolved is what is connected
to (`pinned`), so a name cannot point elsewhere between the check and the connection.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from tutee.errors import InvalidInput

Resolve = Callable[[str, int], list[str]]
LONGEST_URL = 2048
PORTS = {"https": 443, "http": 80}


@dataclass(frozen=True, slots=True)
class Pinned:
    """A destination by address: what to connect to, and the names that belong to it."""

    url: str
    """With the address in place of the name."""
    host: str
    """The Host header."""
    name: str
    """What the certificate must be for."""


def check_url(url: str, private: bool, param: str = "url") -> None:
    """Refuse a URL that can never be sent to; looks nothing up.

    Args:
        private: whether plain HTTP and addresses that are not public are allowed.

    Raises:
        InvalidInput: what is wrong with it, about `param`.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _refused(param, "is not a URL") from None
    if len(url) > LONGEST_URL or any(c <= " " or c == "\x7f" for c in url):
        raise _refused(param, f"must be a URL of at most {LONGEST_URL} characters without spaces")
    if parts.scheme not in (PORTS if private else ("https",)):
        raise _refused(param, "must begin with https://" + (" or http://" if private else ""))
    if not parts.hostname or parts.username is not None or parts.password is not None or port == 0:
        raise _refused(param, "must name a host, and no user or password")
    if not private and _is_address(parts.hostname) and not _public(parts.hostname):
        raise _refused(param, "names an address that is not public")


def pinned(url: str, private: bool, resolve: Resolve | None = None) -> Pinned:
    """Look the host up and hold on to what was found.

    Raises:
        InvalidInput: it cannot be found, or an address is not public and `private` is false.
    """
    check_url(url, private)
    parts = urlsplit(url)
    name, port = parts.hostname or "", parts.port or PORTS[parts.scheme]
    try:
        name = name.encode("idna").decode("ascii")
        addresses = (resolve or _resolve)(name, port)
    except (OSError, UnicodeError):
        raise _refused("url", f"names a host that cannot be found ({name})") from None
    if not private and not all(_public(address) for address in addresses):
        raise _refused("url", f"names a host with an address that is not public ({name})")
    host = _bracketed(name) + ("" if parts.port is None else f":{port}")
    place = f"{_bracketed(addresses[0])}:{port}"
    return Pinned(urlunsplit((parts.scheme, place, parts.path, parts.query, "")), host, name)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _resolve(name: str, port: int) -> list[str]:
    return [str(found[4][0]) for found in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _public(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    inside = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None)
    return address.is_global and not address.is_multicast and (inside is None or inside.is_global)


def _refused(param: str, said: str) -> InvalidInput:
    return InvalidInput(f"'{param}' {said}.", param=param, code="invalid_value")
