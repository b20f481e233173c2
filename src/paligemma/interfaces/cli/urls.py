"""A picture's web address -> its bytes, without reaching anything that is not public.

Comes in: an http or https address that the user typed or listed, only with `--allow-url`. Goes out: `MAX_BYTES` at
most. The host is looked up once, every one of its addresses has to be public, and that very address is dialled, for
each redirect anew; no proxy, no cookies, no credentials. Not done here: deciding whether it is a picture (`images`).
"""

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
from typing import Any, NamedTuple
from urllib.parse import unquote, urljoin, urlsplit

from paligemma import __version__
from paligemma.errors import InputError

MAX_BYTES = 64 * 2**20
MAX_REDIRECTS = 5
SILENCE_S = 10.0  # the longest wait for the next byte
DEADLINE_S = 60.0  # for one answer, however steadily it drips
CHUNK = 65_536
REDIRECTS = (301, 302, 303, 307, 308)
NAT64 = ipaddress.ip_network("64:ff9b::/96")


class _Place(NamedTuple):
    """An address taken apart once, so that what is checked is what is dialled."""

    scheme: str
    host: str
    port: int
    target: str
    shown: str


def fetch(url: str, *, private: bool = False, deadline_s: float = DEADLINE_S) -> bytes:
    """The bytes behind an address.

    Args:
        private: allow hosts that are not public as well (tests on loopback).

    Raises:
        InputError: no usable address, not a public host, too many redirects, no answer in time, an error, too large.
    """
    for _ in range(MAX_REDIRECTS + 1):
        place = _parse(url)
        address = _resolve(place, private)
        answer = _get(place, address, deadline_s)
        if isinstance(answer, bytes):
            return answer
        target = urljoin(url, answer)
        if urlsplit(target).scheme not in ("https", place.scheme):
            raise InputError(f"{place.shown} leads to {shown(target)}, expected {place.scheme}; download it yourself")
        url = target
    raise InputError(f"{shown(url)} is behind more than {MAX_REDIRECTS} redirects; give its final address")


def shown(url: str) -> str:
    """An address as it may stand in a message: short, one line, without credentials and query."""
    try:
        parts = urlsplit(url)
        text = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    except ValueError:
        text = url
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= 200 else f"{text[:197]}..."


def file_name(url: str) -> str:
    """A name for the file: the last part of the address, as far as it can be one."""
    try:
        last = unquote(urlsplit(url).path).rstrip("/").rpartition("/")[2]
    except ValueError:
        last = ""
    kept = "".join(c if c.isprintable() and c not in '/\\:*?"<>|' else "_" for c in last).strip(". ")
    return kept[-100:] or "picture.png"


def is_public(address: str) -> bool:
    """Whether an IP address is reachable for everybody; one that wraps another counts as that."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def _parse(url: str) -> _Place:
    name = shown(url)
    if "\\" in url or not url.isprintable() or " " in url:
        raise InputError(f"{name} holds characters no address has; give it percent-encoded")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        ascii_host = (host or "").encode("idna").decode("ascii") if ":" not in (host or "") else host or ""
    except ValueError as error:  # UnicodeError is one
        raise InputError(f"{name} is no address that can be read; check it") from error
    if parts.scheme not in ("http", "https") or not ascii_host:
        raise InputError(f"{name} is no http or https address; give one, or a file")
    if "@" in parts.netloc:
        raise InputError(f"{name} comes with a user name; download it yourself and give the file")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    target = target if target.isascii() else "".join(c if c.isascii() else _quoted(c) for c in target)
    return _Place(parts.scheme, ascii_host, port or {"http": 80, "https": 443}[parts.scheme], target, name)


def _quoted(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogateescape"))


def _resolve(place: _Place, private: bool) -> str:
    """The one address that will be dialled."""
    try:
        found = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise InputError(f"the host of {place.shown} is not known; check the address and the network") from error
    addresses = [str(entry[4][0]) for entry in found]
    if not private and not all(is_public(address) for address in addresses):
        raise InputError(f"{place.shown} is in a private network, expected a public host; download it yourself")
    return addresses[0]


def _get(place: _Place, address: str, deadline_s: float) -> bytes | str:
    """The body, or where a redirect leads."""
    held: list[socket.socket] = []
    late = threading.Event()  # set before the end, so that an answer cut off by it is never taken for whole
    timer = threading.Timer(deadline_s, _end, [late, held])
    timer.daemon = True
    timer.start()
    try:
        connection = _connection(place, address, held)
        headers = {"Host": _host_header(place), "User-Agent": f"paligemma/{__version__}", "Accept": "image/*"}
        connection.request("GET", place.target, headers={**headers, "Accept-Encoding": "identity"})
        response = connection.getresponse()
        if response.status in REDIRECTS and response.headers["Location"]:
            return str(response.headers["Location"])
        if response.status != 200:
            raise InputError(f"{place.shown} answers {response.status} {response.reason[:60]}; check the address")
        return _body(response, place, late)
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = f"not whole after {deadline_s:g} s" if late.is_set() else str(error) or type(error).__name__
        raise InputError(f"{place.shown} cannot be downloaded ({reason[:120]}); try again, or give a file") from error
    finally:
        timer.cancel()
        _shut(held)


def _connection(place: _Place, address: str, held: list[socket.socket]) -> http.client.HTTPConnection:
    """A connection to the checked address, with the host's own name in TLS."""
    plain = socket.create_connection((address, place.port), timeout=SILENCE_S)
    held.append(plain)
    if place.scheme == "https":
        held.append(ssl.create_default_context().wrap_socket(plain, server_hostname=place.host))
    connection = http.client.HTTPConnection(place.host, place.port, timeout=SILENCE_S)
    connection.sock = held[-1]
    return connection


def _host_header(place: _Place) -> str:
    host = f"[{place.host}]" if ":" in place.host else place.host
    return host if place.port == {"http": 80, "https": 443}[place.scheme] else f"{host}:{place.port}"


def _body(response: http.client.HTTPResponse, place: _Place, late: threading.Event) -> bytes:
    size = response.headers.get("Content-Length", "")
    too_large = f"{place.shown} is larger than {MAX_BYTES // 2**20} MiB; download and shrink it"
    if size.isdigit() and int(size) > MAX_BYTES:
        raise InputError(too_large)
    parts: list[bytes] = []
    total = 0
    while part := response.read(CHUNK):
        total += len(part)
        if total > MAX_BYTES:
            raise InputError(too_large)
        parts.append(part)
    if late.is_set() or (size.isdigit() and total < int(size)):
        raise OSError(f"{total} of {size or 'unknown many'} bytes came")
    return b"".join(parts)


def _end(late: threading.Event, held: list[socket.socket]) -> None:
    late.set()
    _shut(held)


def _shut(held: list[Any]) -> None:
    """Ends what a connection waits for; a socket may be gone already."""
    for open_socket in held:
        with contextlib.suppress(OSError):
            open_socket.shutdown(socket.SHUT_RDWR)
        open_socket.close()
