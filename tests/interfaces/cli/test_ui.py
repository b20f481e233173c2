import socket

import pytest

from paligemma.errors import ResourceError, UnavailableError
from paligemma.interfaces.cli import ui as command
from paligemma.interfaces.cli.options import ModelOptions
from paligemma.interfaces.webui import server


@pytest.fixture
def served(monkeypatch):
    """What would be served: (model, address, host); the model is its options."""
    calls = []

    class Loaded:
        name = "nano"

    def serve(model, listening, host):
        calls.append((model, listening.getsockname(), host))
        raise KeyboardInterrupt

    monkeypatch.setattr(server, "need_gradio", lambda: None)
    monkeypatch.setattr(server, "serve", serve)
    monkeypatch.setattr(command, "load", lambda options: Loaded)
    return calls


def test_it_listens_on_loopback_and_ends_with_ctrl_c(served, capsys):
    assert command.ui(port=0) == 0
    ((model, (host, port), given),) = served
    assert (model.name, host, given) == ("nano", "127.0.0.1", "127.0.0.1")
    out, err = capsys.readouterr()
    assert out == f"http://127.0.0.1:{port}/  (nano; Ctrl+C ends it)\n"
    assert "warning" not in err


def test_everyone_being_let_in_is_one_sentence(served, capsys):
    assert command.ui(host="0.0.0.0", port=0) == 0
    assert "everyone who reaches 0.0.0.0 can use this page, and there is no password" in capsys.readouterr().err


def test_the_browser_is_opened_only_when_asked(served, monkeypatch):
    import webbrowser

    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    command.ui(port=0)
    assert opened == []
    command.ui(port=0, browser=True)
    assert opened == [f"http://127.0.0.1:{served[-1][1][1]}/"]


def test_a_taken_port_is_told_before_a_model_is_loaded(served, monkeypatch):
    monkeypatch.setattr(command, "load", lambda options: pytest.fail("the model was loaded"))
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ResourceError, match="give another --port"):
        command.ui(port=taken.getsockname()[1])


def test_without_gradio_nothing_begins(served, monkeypatch):
    def missing():
        raise UnavailableError("no gradio")

    monkeypatch.setattr(server, "need_gradio", missing)
    with pytest.raises(UnavailableError):
        command.ui(port=0, model=ModelOptions())
    assert served == []
