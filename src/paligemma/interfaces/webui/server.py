"""The process behind the page: one model, one address, both languages; ends with Ctrl+C and leaves no file.

In: a loaded model and a listening socket. Out: nothing but answers to that socket. Never shared, nothing is reported to
anyone: Gradio's own start, which asks other machines, is not used.
"""

import asyncio
import importlib.util
import logging
import os
import signal
import socket
import sys
import tempfile
from typing import TYPE_CHECKING, Any

from paligemma.errors import ResourceError, UnavailableError, UsageError
from paligemma.interfaces.webui.guard import LOOPBACK, Guard
from paligemma.interfaces.webui.words import WORDS, language_of

if TYPE_CHECKING:
    from paligemma.api import PaliGemma

MAX_UPLOAD = "20mb"
EVERYWHERE = ("0.0.0.0", "::", "")
CLOSING_S = 2  # for open pages to take their last bytes


def need_gradio() -> None:
    """Silences Gradio and makes sure it is there, without the seconds that importing it takes.

    Raises:
        UnavailableError: it is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    if importlib.util.find_spec("gradio") is None:
        raise UnavailableError("the page needs Gradio, which is not installed; pip install 'paligemma[ui]'")


def listen(host: str, port: int) -> socket.socket:
    """A socket that accepts connections from now on; port 0 takes a free one.

    Raises:
        UsageError: no such port, or no address of this machine. ResourceError: the port is taken or not allowed.
    """
    if not 0 <= port < 65536:
        raise UsageError(f"port {port} does not exist; give one from 1 to 65535, or 0 for any that is free")
    try:
        family = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        return socket.create_server((host, port), family=family)
    except (socket.gaierror, UnicodeError) as error:
        raise UsageError(f"{host!r} is no address of this machine; give 127.0.0.1, or 0.0.0.0 for all") from error
    except OSError as error:
        raise ResourceError(
            f"cannot listen on {host} port {port} ({error.strerror}); give another --port, or 0 for any that is free"
        ) from error


def url_of(listening: socket.socket) -> str:
    """The page's address as a browser on this machine takes it."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def make_app(model: "PaliGemma", host: str = LOOPBACK[0]) -> Guard:
    """The whole site: `/` leads to `/en/` or `/zh/` by what the browser prefers.

    Uploads and answers lie in `GRADIO_TEMP_DIR`, which Gradio reads here and when it is first imported.

    Raises:
        UnavailableError: no Gradio.
    """
    need_gradio()
    import gradio as gr
    from fastapi import FastAPI, Request
    from fastapi.responses import RedirectResponse, Response

    from paligemma.interfaces.webui import look
    from paligemma.interfaces.webui.answer import Asker
    from paligemma.interfaces.webui.examples import draw_examples
    from paligemma.interfaces.webui.page import build_page

    site: Any = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    asker = Asker(model)

    @site.get("/")
    def choose_language(request: Request) -> RedirectResponse:
        code = language_of(request.headers.get("accept-language", ""))
        query = f"?{request.url.query}" if request.url.query else ""
        return RedirectResponse(f"/{code}/{query}", headers={"vary": "accept-language", "cache-control": "no-store"})

    @site.get("/favicon.ico")
    def icon() -> Response:
        return Response(look.ICON, media_type="image/svg+xml")

    for words in WORDS.values():
        gr.mount_gradio_app(
            site, build_page(asker, words, draw_examples(words.code)), path=f"/{words.code}", theme=look.theme(),
            head=look.head(words), show_error=False, max_file_size=MAX_UPLOAD, allowed_paths=[], ssr_mode=False,
            footer_links=[], run_history=False, pwa=False, mcp_server=False, enable_monitoring=False,
        )  # fmt: skip
    return Guard(site, () if host in EVERYWHERE else {*LOOPBACK, host})


def serve(model: "PaliGemma", listening: socket.socket, host: str) -> None:
    """Answers until the process is told to end; files of the page live in a private folder until then."""
    # uvicorn closes and then raises again what it was told; by default SIGTERM would end us before the folder is gone
    signal.signal(signal.SIGTERM, _terminated)
    with tempfile.TemporaryDirectory(prefix="paligemma-ui-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        app = make_app(model, host)
        import uvicorn

        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, ws="none",
            timeout_graceful_shutdown=CLOSING_S,
        )  # fmt: skip
        logging.getLogger("uvicorn.error").addFilter(_worth_telling)
        uvicorn.Server(config).run(sockets=[listening])


def _terminated(number: int, frame: object) -> None:
    sys.exit(128 + number)


def _worth_telling(record: logging.LogRecord) -> bool:
    """False for what uvicorn says of pages that are still open when it ends."""
    cancelled = record.exc_info is not None and isinstance(record.exc_info[1], asyncio.CancelledError)
    return not cancelled and "timeout graceful shutdown exceeded" not in record.getMessage()
