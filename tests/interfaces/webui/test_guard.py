import asyncio

import pytest

from paligemma.interfaces.webui.guard import LOOPBACK, POLICY, Guard


def ask(path, hosts=LOOPBACK, host="127.0.0.1:7860", origin=None):
    """(status, headers) of one request, and whether the page behind saw it."""
    seen, sent = [], []

    async def page(scope, receive, send):
        seen.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
        await send({"type": "http.response.body", "body": b""})

    async def send(message):
        sent.append(message)

    headers = [(b"host", host.encode())] + ([(b"origin", origin.encode())] if origin else [])
    asyncio.run(Guard(page, hosts)({"type": "http", "path": path, "headers": headers}, None, send))
    return sent[0]["status"], dict(sent[0]["headers"]), seen


@pytest.mark.parametrize(
    "path",
    [
        "/", "/favicon.ico", "/en/", "/zh", "/en/theme.css", "/en/assets/Index-CsUOoOcz.js", "/en/gradio_api/upload",
        "/en/gradio_api/queue/join", "/en/gradio_api/queue/data", "/en/gradio_api/heartbeat/abc123",
        "/en/gradio_api/file=/tmp/paligemma-ui-x/ab/image.png", "/en/static/js/iframeResizer.contentWindow.min.js",
    ],
)  # fmt: skip
def test_what_the_page_needs_passes_and_may_load_nothing_from_elsewhere(path):
    status, headers, seen = ask(path)
    assert (status, seen) == (200, [path])
    assert headers[b"content-security-policy"] == POLICY.encode()
    assert "http" not in POLICY
    assert headers[b"a"] == b"b"


@pytest.mark.parametrize(
    "path",
    [
        "/en/gradio_api/proxy=http://example.org/", "/en/gradio_api/file=http://example.org/x.png", "/docs",
        "/en/gradio_api/file=https:/example.org", "/en/gradio_api/vibe-code/", "/en/gradio_api/process_recording",
        "/en/gradio_api/call/ask", "/en/gradio_api/run/predict", "/en/gradio_api/openapi.json", "/en/monitoring",
        "/en/dev/reload", "/en/gradio_api/dev/reload", "/etc/passwd", "//en/", "/en/../en/", "/xyz/",
        "/en/login", "/gradio_api/upload",
        "/en/gradio_api/custom_component/x/y/z/w", "/en/assets/a\nb", "/en/gradio_api/profiling/traces",
    ],
)  # fmt: skip
def test_everything_else_is_refused(path):
    status, headers, seen = ask(path)
    assert (status, seen) == (404, [])
    assert b"content-security-policy" in headers


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost", "LOCALHOST:1", "[::1]:7860", "[::1]"])
def test_its_own_names_pass(host):
    assert ask("/", host=host)[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost:evil.example", "", "[::2]:7860"])
def test_a_site_that_points_its_name_here_is_refused(host):
    assert ask("/", host=host)[0] == 403
    assert ask("/", hosts=(), host=host)[0] == 200


def test_another_site_cannot_ask():
    assert ask("/en/gradio_api/queue/join", origin="http://127.0.0.1:7860")[0] == 200
    for origin in ("http://evil.example", "http://127.0.0.1:9999", "null"):
        assert ask("/en/gradio_api/queue/join", origin=origin)[0] == 403
        assert ask("/en/gradio_api/queue/join", hosts=(), origin=origin)[0] == 403


def test_other_protocols_are_not_spoken():
    passed = []

    async def page(scope, receive, send):
        passed.append(scope["type"])

    for kind in ("lifespan", "websocket"):
        asyncio.run(Guard(page, LOOPBACK)({"type": kind, "path": "/en/", "headers": []}, None, None))
    assert passed == ["lifespan"]
