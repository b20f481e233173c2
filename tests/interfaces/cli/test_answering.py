import io
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from paligemma.errors import ResourceError
from paligemma.interfaces.cli import answering, main
from paligemma.results import Answer, Box, Detections

NONSENSE = ["--max-tokens", "6"]


@pytest.fixture
def run(tiny, pictures, capsys):
    """Runs one command on the tiny model: (exit code, stdout, stderr)."""

    def run(*arguments):
        status = main([*arguments, "--model", str(tiny), *NONSENSE])
        return (status, *capsys.readouterr())

    return run


@pytest.fixture
def no_model(monkeypatch):
    """Fails a test in which a model is loaded."""
    monkeypatch.setattr(answering, "load", lambda options: pytest.fail("a model was loaded"))


@pytest.mark.parametrize(
    ("words", "prompt"),
    [
        (["caption"], "caption en"),
        (["ask", "how many?"], "answer en how many?"),
        (["ocr"], "ocr"),
        (["detect", "cat; dog"], "detect cat ; dog"),
        (["segment", "left car"], "segment left car"),
        (["generate", "describe en"], "describe en"),
    ],
)
def test_every_verb_answers(run, words, prompt):
    status, out, _ = run(*words, "a.png")
    assert status == 0
    assert out.endswith("\n")
    status, out, _ = run(*words, "a.png", "--json")
    told = json.loads(out)
    assert status == 0
    assert (told["task"], told["prompt"]) == (words[0], prompt)
    assert told["images"] == [{"path": "a.png", "width": 64, "height": 48}]
    assert ("boxes" in told) is (words[0] in ("detect", "segment"))


def test_options_reach_the_prompt_and_the_sampler(run):
    assert json.loads(run("caption", "a.png", "--lang", "de", "--style", "cap", "--json")[1])["prompt"] == "cap de"
    greedy = [run("caption", "a.png", "--json", *more)[1] for more in ([], ["--num-beams", "1"])]
    drawn = [run("caption", "a.png", "--json", "--temperature", "9", "--seed", seed)[1] for seed in ("1", "1", "2")]
    raw = [json.loads(out)["raw"] for out in (*greedy, *drawn)]
    assert raw[0] == raw[1]
    assert raw[2] == raw[3]
    assert len({raw[0], raw[2], raw[4]}) == 3
    assert run("caption", "a.png", "--num-beams", "2")[0] == 0


def test_several_images_give_a_list_in_their_order(run):
    status, out, _ = run("caption", "b.jpg", "a.png", "--json")
    told = json.loads(out)
    assert (status, told["failed"]) == (0, 0)
    assert [item["images"][0]["path"] for item in told["results"]] == ["b.jpg", "a.png"]
    status, out, _ = run("caption", "b.jpg", "a.png")
    assert [line.split(":")[0] for line in out.splitlines() if ":" in line][:1] == ["b.jpg"]
    assert "\na.png: " in f"\n{out}"


def test_an_image_alone_and_among_others_gets_the_same_answer(run):
    alone = json.loads(run("caption", "b.jpg", "--json")[1])
    among = json.loads(run("caption", "a.png", "b.jpg", "--json")[1])["results"][1]
    assert alone["raw"] == among["raw"]


@pytest.mark.parametrize("bad", ["bad.png", "missing.png", "."])
def test_one_bad_image_does_not_stop_the_others(run, bad):
    status, out, err = run("caption", "a.png", bad, "b.jpg", "--json")
    told = json.loads(out)
    assert (status, told["failed"]) == (9, 1)
    assert ["error" in item for item in told["results"]] == [False, True, False]
    assert told["results"][1]["error"]["code"] == "bad_input"
    assert told["results"][1]["images"] == [{"path": bad}]
    assert err.count("error: ") == 1
    status, out, err = run("caption", "a.png", bad, "b.jpg")
    assert status == 9
    assert "a.png: " in out
    assert "b.jpg: " in out


def test_only_bad_images_is_4_and_loads_nothing(pictures, capsys, no_model):
    for arguments in (["missing.png"], ["missing.png", "no.png"], ["."]):
        assert main(["caption", *arguments]) == 4
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("error: ") == len(arguments)
    assert main(["caption", "missing.png", "--json"]) == 4
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "bad_input"


def test_a_damaged_image_alone_is_4(run):
    status, out, err = run("caption", "bad.png")
    assert (status, out) == (4, "")
    assert "bad.png" in err
    assert err.count("\n") == 1


def test_wrong_words_are_refused_before_a_model_is_loaded(pictures, capsys, no_model):
    for arguments in (["ask", "", "a.png"], ["caption", "a.png", "--lang", "xx"], ["detect", ";", "a.png"]):
        assert main(arguments) == 2
    assert capsys.readouterr().out == ""


def test_paths_come_from_stdin(run, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("a.png\nb.jpg\n"))
    assert len(json.loads(run("ocr", "-", "--json")[1])["results"]) == 2
    monkeypatch.setattr(sys, "stdin", io.StringIO("a.png\n"))
    assert len(json.loads(run("ocr", "-", "--json")[1])["results"]) == 1
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert run("ocr", "-")[0] == 4


def test_a_path_that_begins_with_a_dash(run):
    Path("a.png").rename("-a.png")
    assert run("caption", "--json", "./-a.png")[0] == 0


def test_several_images_together_are_one_example(run):
    status, out, _ = run("generate", "compare en", "a.png", "b.jpg", "--together", "--json", "--save", "out.png")
    told = json.loads(out)
    assert status == 0
    assert [image["path"] for image in told["images"]] == ["a.png", "b.jpg"]
    assert Image.open("out.png").size[0] > 0


def test_answers_are_saved_where_they_were_asked_for(run):
    assert run("detect", "cat", "a.png", "--save", "new/one.png")[0] == 0
    assert run("caption", "a.png", "b.jpg", "--save", "out")[0] == 0
    assert run("caption", "a.png", "--save", "one.json")[0] == 0
    saved = [Path("new/one.png"), Path("out/a.png"), Path("out/b.jpg")]
    assert all(Image.open(path).size[0] >= 64 for path in saved)
    assert json.loads(Path("one.json").read_text())["task"] == "caption"


def test_an_input_is_not_overwritten(run):
    before = Path("a.png").read_bytes()
    assert run("caption", "a.png", "--save", ".")[0] == 2
    assert Path("a.png").read_bytes() == before


def test_a_place_that_cannot_be_written_is_one_sentence(run):
    status, _, err = run("caption", "a.png", "--save", "b.jpg/out.png")
    assert status == ResourceError.exit_status
    assert "Traceback" not in err


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def test_a_terminal_gets_the_same_text_in_pieces(run, monkeypatch):
    expected = json.loads(run("caption", "a.png", "--json")[1])
    pieces = []
    say = answering.console.say
    monkeypatch.setattr(answering.console, "say", lambda text, end="\n": (pieces.append(text), say(text, end)))
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    assert run("caption", "a.png")[0] == 0
    assert len(pieces) > 2
    assert "".join(pieces) == expected["raw"]
    assert terminal.getvalue() == answering.console.clean(expected["raw"]) + "\n"


def test_boxes_are_not_streamed(run, monkeypatch):
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    assert run("generate", "detect cat", "a.png")[0] == 0
    assert "<loc" not in terminal.getvalue()


@pytest.mark.parametrize(
    ("model", "status"), [("./missing", 3), ("paligemma2-3b-mix-224", 3), (".", 5), ("a.png", 5), ("no-such-model", 3)]
)
def test_a_model_that_is_not_there_or_none_is_one_sentence(pictures, capsys, model, status):
    assert main(["caption", "a.png", "--model", model]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1


def test_a_model_without_its_tokenizer_says_so(tiny, pictures, capsys):
    for name in ("config.json", "model.safetensors"):
        (pictures / name).write_bytes((tiny / name).read_bytes())
    assert main(["caption", "a.png", "--model", str(pictures)]) == 5
    assert "tokenizer" in capsys.readouterr().err
    assert main(["caption", "a.png", "--model", str(pictures), "--tokenizer", str(tiny), *NONSENSE]) == 0


def test_a_table_of_boxes():
    box = Box(label="狗", box_yxyx_norm=(0.1, 0.2, 0.5, 1.0), image_size_px=(200, 100))
    found = Detections(text="", raw="", task="detect", prompt="detect 狗", boxes=(box,))
    header, row = answering.boxes_table(found).splitlines()
    assert header.split() == ["label", "left", "top", "right", "bottom"]
    assert row.split() == ["狗", "40", "10", "200", "50"]
    assert answering.text_of(found, "a.png").startswith("a.png:\nlabel")
    assert answering.text_of(Detections(text="", raw="", task="detect", prompt="")) == "nothing found"
    assert answering.text_of(Answer(text="a cat", raw="a cat", task="caption", prompt=""), "a.png") == "a.png: a cat"
