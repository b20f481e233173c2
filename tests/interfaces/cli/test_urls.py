import contextlib
import ipaddress
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from paligemma.errors import InputError
from paligemma.interfaces.cli import urls

BODY = b"x" * 1000


class Handler(BaseHTTPRequestHandler):
    """Answers by path; `server.seen` holds the requests."""

    def log_message(self, *what):
        pass

    def do_GET(self):
        self.server.seen.append((self.path, dict(self.headers)))
        name, _, argument = self.path.strip("/").partition("/")
        getattr(self, f"answer_{name}", self.answer_missing)(argument)

    def whole(self, status, body, **headers):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def answer_missing(self, argument):
        self.whole(404, b"")

    def answer_good(self, argument):
        self.whole(200, BODY)

    def answer_to(self, target):
        self.whole(302, b"", Location=f"/{target}" if ":" not in target else target)

    def answer_loop(self, argument):
        self.whole(301, b"", Location="/loop")

    def answer_short(self, argument):
        self.send_response(200)
        self.send_header("Content-Length", "5000")
        self.end_headers()
        self.wfile.write(BODY)

    def answer_huge(self, argument):
        self.send_response(200)
        self.send_header("Content-Length", str(urls.MAX_BYTES + 1))
        self.end_headers()

    def answer_endless(self, argument):
        self.send_response(200)
        self.end_headers()
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(BODY)

    def answer_drip(self, argument):
        self.send_response(200)
        self.end_headers()
        with contextlib.suppress(OSError):
            for _ in range(200):
                self.wfile.write(b"x")
                time.sleep(0.05)


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        served.daemon_threads, served.seen = True, []
        threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        served.url = f"http://127.0.0.1:{served.server_port}"
        yield served
        served.shutdown()


def refused(url, **more):
    with pytest.raises(InputError) as caught:
        urls.fetch(url, private=True, **more)
    return str(caught.value)


def test_a_picture_is_downloaded_with_nothing_of_ours_in_the_request(server, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert urls.fetch(f"{server.url}/good/ä b.png?q=1".replace(" ", "%20"), private=True) == BODY
    [(path, headers)] = server.seen
    assert path == "/good/%C3%A4%20b.png?q=1"
    assert set(headers) == {"Host", "User-Agent", "Accept", "Accept-Encoding"}
    assert headers["Host"] == f"127.0.0.1:{server.server_port}"


def test_loopback_is_not_public_and_not_dialled(server):
    with pytest.raises(InputError, match="private network"):
        urls.fetch(f"{server.url}/good")
    assert server.seen == []


@pytest.mark.parametrize("host", ["localhost", "2130706433", "0x7f.1", "0177.0.0.1", "[::1]", "[::ffff:127.0.0.1]"])
def test_no_spelling_of_loopback_is_public(host, monkeypatch):
    real = socket.getaddrinfo
    known = "::1" if host.startswith("[::1") else "127.0.0.1"
    monkeypatch.setattr(socket, "getaddrinfo", lambda name, *rest, **more: real(known, *rest, **more))
    monkeypatch.setattr(socket, "create_connection", lambda *a, **k: pytest.fail("dialled"))
    with pytest.raises(InputError, match="private network"):
        urls.fetch(f"http://{host}/a.png")


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "255.255.255.255", "::", "::1", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:10.0.0.1", "64:ff9b::7f00:1",
        "2002:7f00:1::", "240.0.0.1", "2001:db8::1",
    ],
)  # fmt: skip
def test_what_is_not_public(address):
    assert not urls.is_public(address)


def test_what_is_public():
    public = ["93.184.215.14", "2606:2800:21f::1", "::ffff:93.184.215.14", "64:ff9b::5db8:d70e"]
    assert all(urls.is_public(address) for address in public)
    assert not any(ipaddress.ip_address(address).is_private for address in public[:2])


def test_one_private_address_among_public_ones_is_enough_to_refuse(monkeypatch):
    entries = [(2, 1, 6, "", (address, 80)) for address in ("93.184.215.14", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: entries)
    with pytest.raises(InputError, match="private network"):
        urls.fetch("http://rebinding.example/a.png")


def test_the_checked_address_is_the_dialled_one(monkeypatch):
    """A name that is looked up twice may answer differently the second time."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: [(2, 1, 6, "", ("93.184.215.14", 80))])
    dialled = []

    def connect(address, **more):
        dialled.append(address)
        raise OSError("enough")

    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(InputError, match="enough"):
        urls.fetch("http://name.example/a.png")
    assert dialled == [("93.184.215.14", 80)]


def test_redirects_are_followed_and_each_is_checked(server, monkeypatch):
    assert urls.fetch(f"{server.url}/to/good", private=True) == BODY
    assert "redirects" in refused(f"{server.url}/loop")
    assert len(server.seen) == 2 + urls.MAX_REDIRECTS + 1
    monkeypatch.setattr(urls, "is_public", lambda address: address == "127.0.0.1")
    with pytest.raises(InputError, match="private network"):
        urls.fetch(f"{server.url}/to/http://127.0.0.2:1/a.png")


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/a.png", "data:image/png;base64,xx"])
def test_redirects_lead_to_no_other_scheme(server, target):
    assert "leads to" in refused(f"{server.url}/to/{target}")
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/a.png", "http://", "http:///a.png", "http://user:secret@127.0.0.1/a.png", "http://host\\@127.0.0.1/",
        "http://host/a b.png", "http://host/a\r\nX-Header: 1", "http://host:99999/a", "http://[::1/a", "file:///etc/passwd",
    ],
)  # fmt: skip
def test_unusual_addresses_are_refused_without_dialling(url, monkeypatch):
    monkeypatch.setattr(socket, "create_connection", lambda *a, **k: pytest.fail("dialled"))
    message = refused(url)
    assert "secret" not in message
    assert "\n" not in message


def test_errors_of_the_server_are_told(server):
    assert "404" in refused(f"{server.url}/nothing?key=secret")
    assert "secret" not in refused(f"{server.url}/nothing?key=secret")
    assert "cannot be downloaded" in refused(f"{server.url}/short")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert "cannot be downloaded" in refused(f"http://127.0.0.1:{closed.getsockname()[1]}/a.png")


def test_size_and_time_have_limits(server, monkeypatch):
    assert "larger than" in refused(f"{server.url}/huge")
    monkeypatch.setattr(urls, "MAX_BYTES", 100_000)
    assert "larger than" in refused(f"{server.url}/endless")
    began = time.monotonic()
    assert "not whole after 0.3 s" in refused(f"{server.url}/drip", deadline_s=0.3)
    assert time.monotonic() - began < 5


def test_tls_is_checked_for_the_name(monkeypatch, server):
    assert "cannot be downloaded" in refused(f"https://127.0.0.1:{server.server_port}/good")  # speaks no TLS


def test_names_of_files():
    assert urls.file_name("http://h/x/a.jpg?y=/b") == "a.jpg"
    assert urls.file_name("http://h/") == "picture.png"
    assert urls.file_name("http://h/..%2f..%2fetc%2fpasswd") == "passwd"
    assert urls.file_name("http://[bad") == "picture.png"
    assert len(urls.file_name("http://h/" + "x" * 500 + ".png")) == 100


def test_addresses_are_shown_short_and_without_secrets():
    assert urls.shown("http://user:pw@h:80/a.png?token=1#x") == "http://h:80/a.png"
    assert len(urls.shown("http://h/" + "x" * 500)) == 200
    assert urls.shown("http://h/\x1b[2J").isprintable()
