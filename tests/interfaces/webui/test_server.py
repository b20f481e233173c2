"""The whole page over HTTP as a browser speaks to it, without a browser: uploads, answers, and what must fail."""

import asyncio
import importlib.util
import io
import json
import logging
import socket
import stat
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import httpx
import pytest
from PIL import Image

from paligemma.errors import ResourceError, UnavailableError, UsageError
from paligemma.interfaces.webui import server
from paligemma.interfaces.webui.server import _worth_telling, listen, need_gradio, url_of


def picture_file(color):
    file = io.BytesIO()
    Image.new("RGB", (40, 30), color).save(file, "PNG")
    return file.getvalue()


WEB = httpx.Client(timeout=120)
pytestmark = pytest.mark.filterwarnings(r"ignore:::gradio\.queueing")  # its own affairs with pandas


def upload(url, data, name="a.png"):
    answer = WEB.post(f"{url}en/gradio_api/upload", files={"files": (name, data)})
    return answer.json()[0] if answer.is_success else answer.status_code


@cache
def button(url):
    """The number of the event with the most inputs, which is the button's."""
    config = WEB.get(f"{url}en/config").json()
    return max(config["dependencies"], key=lambda dependency: len(dependency["inputs"]))["id"]


def put(url, path, task="caption", objects="cat", session="s", **file):
    """The last message of the queue to the request that the page's button sends."""
    picture = {"path": path, "meta": {"_type": "gradio.FileData"}, **file}
    data = ["picture", picture, None, task, objects, "how many?", "caption en", "en", "caption", 0, 0]
    body = {"data": data, "fn_index": button(url), "session_hash": session}
    assert WEB.post(f"{url}en/gradio_api/queue/join", json=body).is_success
    with WEB.stream("GET", f"{url}en/gradio_api/queue/data", params={"session_hash": session}) as lines:
        for line in lines.iter_lines():
            if line.startswith("data:") and (message := json.loads(line[5:]))["msg"] == "process_completed":
                return message


def test_the_browsers_language_decides(site):
    url, _ = site
    for accepted, code in (("zh-CN,zh;q=0.9", "zh"), ("de", "en")):
        answer = WEB.get(f"{url}?__theme=dark", headers={"accept-language": accepted})
        assert (answer.status_code, answer.headers["location"]) == (307, f"/{code}/?__theme=dark")
        assert WEB.get(f"{url}{code}/").is_success


def test_the_page_asks_for_nothing_but_an_uploaded_or_drawn_picture(site):
    url, _ = site
    config = WEB.get(f"{url}en/config").json()
    pictures = [part["props"] for part in config["components"] if part["type"] in ("image", "imageeditor")]
    inputs = [part for part in pictures if part.get("interactive") is not False]
    assert [part["sources"] for part in inputs] == [["upload", "clipboard"], []]
    assert {dependency["api_visibility"] for dependency in config["dependencies"]} == {"private"}
    assert not config["analytics_enabled"]


def test_an_upload_is_answered(site):
    url, model = site
    message = put(url, upload(url, picture_file((1, 2, 3))), "detect")
    assert message["success"]
    assert model.asked[-1][:2] == ("detect", "cat")
    shown = json.dumps(message["output"])
    assert "2 found" in shown
    assert "cut at 3 tokens" in shown
    files = [part["path"] for part in walk(message["output"]) if str(part.get("path", "")).endswith(".json")]
    saved = WEB.get(f"{url}en/gradio_api/file={files[0]}")
    assert len(saved.json()["boxes"]) == 2
    assert stat.S_IMODE(Path(files[0]).parent.stat().st_mode) == 0o700


def walk(value):
    """Every dictionary inside."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    for item in value if isinstance(value, list) else ():
        yield from walk(item)


def test_a_bad_upload_is_one_sentence(site):
    url, _ = site
    shown = json.dumps(put(url, upload(url, b"%PDF-1.7 not a picture", "a.pdf")))
    assert 'role=\\"alert\\"' in shown
    assert "is a PDF document of 22 bytes" in shown


def test_visitors_see_their_own_pictures_only(site):
    url, _ = site

    def visit(i):
        return json.dumps(put(url, upload(url, picture_file((i, 100 + i, 7))), session=f"visitor{i}"))

    with ThreadPoolExecutor(6) as visitors:
        for i, shown in enumerate(visitors.map(visit, range(6))):
            assert f"{i},{100 + i},7" in shown
            assert not any(f"{other},{100 + other},7" in shown for other in range(6) if other != i)


def test_no_file_but_an_upload_is_read(site, tmp_path):
    url, model = site
    private = tmp_path / "private.png"
    private.write_bytes(picture_file((9, 9, 9)))
    asked = len(model.asked)
    for path in (str(private), "/etc/passwd", "../../../../etc/passwd"):
        message = put(url, path)
        assert not message["success"]
        assert "private" not in json.dumps(message)
        for address in (f"file={path}", f"file={path.replace('/', '%2F')}"):
            assert WEB.get(f"{url}en/gradio_api/{address}").status_code in (403, 404)
    assert len(model.asked) == asked


def test_no_address_is_ever_fetched(site, forbidden):
    url, model = site
    asked = len(model.asked)
    for path in ("http://192.0.2.1/a.png", "https://example.org/a.png", "file:///etc/passwd"):
        assert not put(url, path)["success"]
    assert len(model.asked) == asked
    assert forbidden == []


def test_a_huge_upload_is_refused(site):
    url, _ = site
    assert upload(url, bytes(21 * 2**20)) == 413


def test_a_port_that_is_taken_or_no_port_is_told():
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert url_of(taken) == f"http://127.0.0.1:{port}/"
        with pytest.raises(ResourceError, match=f"cannot listen on 127.0.0.1 port {port} .*; give another --port"):
            listen("127.0.0.1", port)
    with pytest.raises(UsageError, match="port 70000 does not exist"):
        listen("127.0.0.1", 70000)
    with pytest.raises(UsageError, match="is no address of this machine"):
        listen("a" * 80, 0)


@pytest.mark.parametrize(("name", "shown"), [(("0.0.0.0", 80), "127.0.0.1"), (("::", 80, 0, 0), "[::1]")])
def test_the_address_shown_is_one_a_browser_can_open(name, shown, monkeypatch):
    listening = socket.socket()
    monkeypatch.setattr(socket.socket, "getsockname", lambda self: name)
    with listening:
        assert url_of(listening) == f"http://{shown}:80/"


def test_gradio_missing_is_told(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match=r"pip install 'paligemma\[ui\]'"):
        need_gradio()


def test_a_page_left_open_is_no_error_when_the_process_ends():
    def record(message, error=None):
        info = (type(error), error, None) if error else None
        return logging.LogRecord("uvicorn.error", logging.ERROR, "", 0, message, (), info)

    assert not _worth_telling(record("Cancel 1 running task(s), timeout graceful shutdown exceeded"))
    assert not _worth_telling(record("Exception in ASGI application", asyncio.CancelledError()))
    assert _worth_telling(record("Exception in ASGI application", ValueError()))


def test_files_are_gone_when_the_page_is_closed(fake, monkeypatch):
    import uvicorn

    folders = []

    def run(self, sockets):
        folder = Path(server.os.environ["GRADIO_TEMP_DIR"])
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert list(folder.rglob("*.png"))  # the examples
        folders.append(folder)

    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    monkeypatch.setattr(uvicorn.Server, "run", run)
    with listen("127.0.0.1", 0) as listening:
        server.serve(fake, listening, "127.0.0.1")
    assert not folders[0].exists()
