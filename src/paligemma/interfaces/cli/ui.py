"""`paligemma ui`: the web page on this machine."""

from typing import Annotated

from cyclopts import Parameter

from paligemma.interfaces.cli import console
from paligemma.interfaces.cli.answering import load
from paligemma.interfaces.cli.options import Flag, ModelOptions

_MODEL = ModelOptions()


def ui(
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    browser: Annotated[Flag, Parameter(name="--open")] = False,
    model: ModelOptions = _MODEL,
) -> int:
    """Open a web page for asking pictures; Ctrl+C ends it.

    Upload, paste or draw a picture and have it captioned, asked, read, detected or segmented. The page is for this
    machine only, is never shared, and asks no other machine for anything.

    Args:
        host: address to listen on; anything but loopback lets others in, without a password.
        port: 0 takes any that is free.
        browser: open the page in the browser.
    """
    from paligemma.interfaces.webui.guard import LOOPBACK
    from paligemma.interfaces.webui.server import listen, need_gradio, serve, url_of

    model.in_one_process("serve a page")
    need_gradio()
    with listen(host, port) as listening:
        if host not in LOOPBACK:
            console.warn(f"everyone who reaches {host} can use this page, and there is no password")
        loaded = load(model)
        url = url_of(listening)
        console.say(f"{url}  ({loaded.name}; Ctrl+C ends it)")
        if browser:
            import webbrowser

            webbrowser.open(url)
        try:
            serve(loaded, listening, host)
        except KeyboardInterrupt:
            console.note("the page is closed")
    return 0
