"""What a browser may ask of the page's process: ASGI in, ASGI out; everything not listed is refused.

Against web sites that reach for loopback (`Host` and `Origin`), against Gradio's routes that fetch addresses or serve
what the page does not need (only `ROUTES` pass), and against anything in the page that would load from elsewhere (the
content policy, which the browser enforces).
"""

import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "::1")
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)
_API = r"/gradio_api"
ROUTES = re.compile(
    rf"""/ | /favicon\.ico | /manifest\.json
    | /[a-z]{{2}} (?: /? | /config/? | /theme\.css | /manifest\.json | /favicon\.ico | /pwa_icon
        | /(?:assets|static|svelte)/[\w./@+-]+
        | {_API}/(?:info|app_id|startup-events|upload|upload_progress|cancel|reset)/?
        | {_API}/queue/(?:join|data)/?
        | {_API}/heartbeat/\w+
        | {_API}/(?:upload|component_server)/?
        | {_API}/file=(?!\w+:/).+
    )""",
    re.VERBOSE,
)


class Guard:
    """Wraps an app.

    Args:
        hosts: names and addresses the page may be called by; empty for any, which is right only off loopback.
    """

    def __init__(self, app: App, hosts: Iterable[str]):
        self.app, self.hosts = app, frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        reason = self.refusal(scope)

        async def guarded(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        if reason is None:
            await self.app(scope, receive, guarded)
            return
        status, text = reason
        start = {"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]}
        await guarded(start)
        await guarded({"type": "http.response.body", "body": text.encode() + b"\n"})

    def refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Status and sentence for a request that must not pass."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if self.hosts and _name(host) not in self.hosts:
            return 403, "this page answers to its own address only; open the one its terminal shows"
        origin = headers.get(b"origin")
        if origin is not None and urlsplit(origin.decode("latin-1").lower()).netloc != host:
            return 403, "another site asked; open the page itself"
        if not ROUTES.fullmatch(scope["path"]):
            return 404, "there is nothing here; the page is at /"
        return None


def _name(host: str) -> str:
    """`127.0.0.1:7860` -> `127.0.0.1`, `[::1]:7860` -> `::1`."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if re.search(r":\d+$", host) else host
