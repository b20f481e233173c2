import io
import json
import os
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paligemma.errors import InputError, ResourceError
from paligemma.interfaces.cli import answering, main
from paligemma.interfaces.cli.answering import how_it_went
from paligemma.results import Answer

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


def stdin(monkeypatch, data):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(data))))


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
    status, out, _ = run("caption", "b.jpg", "a.png", "--json", "--batch-size", "1")
    told = json.loads(out)
    assert (status, told["failed"]) == (0, 0)
    assert [item["images"][0]["path"] for item in told["results"]] == ["b.jpg", "a.png"]
    status, out, _ = run("caption", "b.jpg", "a.png")
    assert [line.split(":")[0] for line in out.splitlines() if ":" in line][:1] == ["b.jpg"]
    assert "\na.png: " in f"\n{out}"


def test_an_image_alone_and_among_others_gets_the_same_answer(run):
    alone = json.loads(run("caption", "b.jpg", "--json")[1])
    for size in ("1", "2", "8"):
        among = json.loads(run("caption", "a.png", "b.jpg", "--json", "--batch-size", size)[1])["results"][1]
        assert alone["raw"] == among["raw"]


@pytest.mark.parametrize("bad", ["bad.png", "missing.png", "http://host/a.png", "*.webp", "empty"])
@pytest.mark.parametrize("size", ["1", "8"])
def test_one_bad_image_does_not_stop_the_others(run, bad, size):
    Path("empty").mkdir()
    status, out, err = run("caption", "a.png", bad, "b.jpg", "--json", "--batch-size", size)
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
    for arguments in (["missing.png"], ["missing.png", "no.png"], ["*.webp"]):
        assert main(["caption", *arguments]) == 4
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("error: ") == len(arguments)
    for form in ("--json", "--jsonl", "--format=json"):
        assert main(["caption", "missing.png", form]) == 4
        assert json.loads(capsys.readouterr().out)["error"]["code"] == "bad_input"
    assert main(["caption", "missing.png", "no.png", "--json"]) == 4
    assert json.loads(capsys.readouterr().out)["failed"] == 2


def test_a_damaged_image_alone_is_4(run):
    status, out, err = run("caption", "bad.png")
    assert (status, out) == (4, "")
    assert "bad.png" in err
    assert err.count("\n") == 1


def test_wrong_words_are_refused_before_a_model_is_loaded(pictures, capsys, no_model):
    for arguments in (
        ["ask", "", "a.png"],
        ["caption", "a.png", "--lang", "xx"],
        ["detect", ";", "a.png"],
        ["caption", "a.png", "--format", "coco"],
        ["caption", "a.png", "--out", "new/"],
        ["detect", "cat", "a.png", "--save-crops", "."],
        ["detect", "cat", "a.png", "--conf", "2"],
        ["caption", "a.png", "--json", "--raw"],
    ):
        assert main(arguments) == 2
    capsys.readouterr()
    assert main(["caption", "a.png", "--json", "--raw"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "usage"


def test_a_folder_a_pattern_and_a_list_are_sources(run, monkeypatch, pictures):
    (pictures / "in" / "deep").mkdir(parents=True)
    for name in ("in/y.png", "in/x.png", "in/deep/z.png"):
        Image.new("RGB", (20, 20), "teal").save(name)

    def paths(*arguments):
        told = json.loads(run("caption", *arguments, "--json")[1])
        return [row["images"][0]["path"] for row in told["results"]]

    assert paths("in") == ["in/x.png", "in/y.png"]
    assert paths("in", "-r") == ["in/x.png", "in/y.png", "in/deep/z.png"]
    assert paths("in/**/[yz].png") == ["in/deep/z.png", "in/y.png"]
    stdin(monkeypatch, b"a.png\nin\n")
    assert paths("-") == ["a.png", "in/x.png", "in/y.png"]
    stdin(monkeypatch, b"a.png\n")
    assert paths("-") == ["a.png"]
    stdin(monkeypatch, b"")
    assert run("ocr", "-")[0] == 4


def test_a_picture_on_stdin_is_one_answer(run, monkeypatch):
    stdin(monkeypatch, Path("a.png").read_bytes())
    piped = json.loads(run("caption", "-", "--json", "--save", "out.png")[1])
    assert piped["raw"] == json.loads(run("caption", "a.png", "--json")[1])["raw"]
    assert piped["images"][0]["path"] == "-"
    assert Path("out.png").exists()


def film(path="film.mp4"):
    import av

    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=2)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for i in range(6):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 40 * i, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_a_video_is_answered_frame_by_frame_or_as_one_clip(run):
    status, out, _ = run("detect", "cat", film(), "--jsonl", "--save", "out")
    rows = [json.loads(line) for line in out.splitlines()]
    assert (status, [row["images"][0]["time_s"] for row in rows]) == (0, [0.0, 1.0, 2.0])
    assert [row["images"][0]["frame"] for row in rows] == [0, 2, 4]
    assert sorted(os.listdir("out")) == ["film-000000.png", "film-000002.png", "film-000004.png"]
    clip = json.loads(run("caption", "film.mp4", "--clip", "--frames", "3", "--json")[1])
    assert [image["frame"] for image in clip["images"]] == [1, 3, 5]
    assert {image["path"] for image in clip["images"]} == {"film.mp4"}
    _, out, _ = run("caption", "film.mp4", "--stride", "4")
    assert [line.split(": ")[0] for line in out.splitlines()] == ["film.mp4 at 0.00 s", "film.mp4 at 2.00 s"]


def test_an_address_is_fetched_when_allowed(run, monkeypatch):
    from paligemma.interfaces.cli import urls

    good = Path("a.png").read_bytes()

    def fetch(url):
        if "gone" in url:
            raise InputError("http://host/gone.png answers 404; check the address")
        return good

    monkeypatch.setattr(urls, "fetch", fetch)
    addresses = ["http://host/gone.png", "http://host/a.png?key=1"]
    status, out, _ = run("caption", *addresses, "--allow-url", "--json", "--save", "out")
    told = json.loads(out)["results"]
    assert status == 9
    assert [row["images"][0]["path"] for row in told] == ["http://host/gone.png", "http://host/a.png"]
    assert os.listdir("out") == ["a.png"]


def test_a_path_that_begins_with_a_dash(run):
    Path("a.png").rename("-a.png")
    assert run("caption", "--json", "./-a.png")[0] == 0
    assert main(["caption", "--model", "x", "--", "-missing.png"]) == 4


def test_several_images_together_are_one_example(run):
    status, out, _ = run("generate", "compare en", "a.png", "b.jpg", "--together", "--json", "--save", "out.png")
    told = json.loads(out)
    assert status == 0
    assert [image["path"] for image in told["images"]] == ["a.png", "b.jpg"]
    assert Image.open("out.png").size[0] > 0
    assert run("generate", "compare en", "a.png", "missing.png", "--together")[0] == 4


def test_answers_are_saved_where_they_were_asked_for(run):
    assert run("detect", "cat", "a.png", "--save", "new/one.png")[0] == 0
    status, _, err = run("caption", "a.png", "b.jpg", "--save", "out")
    assert (status, "saved" in err) == (0, False)
    assert "saved one.json" in run("caption", "a.png", "--save", "one.json")[2]
    saved = [Path("new/one.png"), Path("out/a.png"), Path("out/b.jpg")]
    assert all(Image.open(path).size[0] >= 64 for path in saved)
    assert json.loads(Path("one.json").read_text())["task"] == "caption"


def test_a_place_that_cannot_be_written_is_one_sentence(run):
    for option in (["--save", "b.jpg/out.png"], ["--out", "b.jpg/out.json"]):
        status, _, err = run("caption", "a.png", *option)
        assert status == ResourceError.exit_status
        assert "Traceback" not in err


def test_answers_go_to_a_file_and_stdout_stays_empty(run):
    status, out, err = run("caption", "a.png", "b.jpg", "--out", "answers.jsonl")
    assert (status, out) == (0, "")
    assert "wrote answers.jsonl" in err
    assert len(Path("answers.jsonl").read_text().splitlines()) == 2
    assert run("detect", "cat", "a.png", "--format", "yolo", "--out", "data")[0] == 0
    assert Path("data/labels/a.txt").exists()


def test_raw_prints_what_the_model_wrote(run):
    raw = json.loads(run("detect", "cat", "a.png", "--json")[1])["raw"]
    assert run("detect", "cat", "a.png", "--raw")[1] == raw + "\n"


def test_quiet_says_nothing_and_verbose_says_more(run):
    _, _, plain = run("caption", "a.png")
    assert "cut at 6 tokens" in plain
    assert run("caption", "a.png", "--quiet")[2] == ""
    _, _, told = run("caption", "a.png", "-v")
    assert "[truncated]" in told
    assert "6 tokens" in told
    assert "s to generate" in told
    status, _, err = run("caption", "a.png", "missing.png", "-q")
    assert (status, err.count("\n")) == (9, 1)


def test_what_is_told_of_an_answer():
    answer = Answer(text="a", raw="a", task="ask", prompt="q", tokens=(1, 2), score=0.25, timing={"generate": 0.5})
    assert how_it_went(answer) == "2 tokens, ended by stop, score 0.25, 0.50 s to generate, prompt 'q', raw 'a'"


@pytest.fixture
def fails_at_second(monkeypatch):
    """The second batch ends in the given error."""

    def fails(error):
        batches = []
        run_batch = answering.Asked._run

        def run(asked, items):
            batches.append(items)
            if len(batches) == 2:
                raise error
            return run_batch(asked, items)

        monkeypatch.setattr(answering.Asked, "_run", run)

    return fails


@pytest.mark.parametrize(
    ("error", "status", "code"), [(KeyboardInterrupt(), 130, "interrupted"), (MemoryError(), 6, "resources")]
)
def test_what_is_done_is_kept_when_it_ends_early(run, fails_at_second, error, status, code):
    fails_at_second(error)
    got, out, err = run("caption", "a.png", "b.jpg", "--json", "--batch-size", "1")
    told = json.loads(out)
    assert (got, told["error"]["code"]) == (status, code)
    assert [row["images"][0]["path"] for row in told["results"]] == ["a.png"]
    assert err.count("error: ") == 1


def test_a_file_keeps_what_is_done_but_nothing_replaces_it_by_nothing(run, fails_at_second, monkeypatch):
    fails_at_second(KeyboardInterrupt())
    assert run("caption", "a.png", "b.jpg", "--out", "x.csv", "--batch-size", "1")[0] == 130
    assert len(Path("x.csv").read_text().splitlines()) >= 2
    Path("old.csv").write_text("old")
    monkeypatch.setattr(answering, "load", lambda options: (_ for _ in ()).throw(ResourceError("no memory")))
    assert run("caption", "a.png", "b.jpg", "--out", "old.csv")[0] == 6
    assert Path("old.csv").read_text() == "old"


def test_a_terminal_gets_the_same_text_in_pieces(run, monkeypatch, open_terminal):
    expected = json.loads(run("caption", "a.png", "--json")[1])
    pieces = []
    say = answering.console.say
    monkeypatch.setattr(answering.console, "say", lambda text, end="\n": (pieces.append(text), say(text, end)))
    written = open_terminal()
    assert run("caption", "a.png", "--quiet")[0] == 0
    assert len(pieces) > 2
    assert "".join(pieces) == expected["raw"]
    assert written() == answering.console.clean(expected["raw"]) + "\n"


def test_boxes_are_not_streamed(run, open_terminal):
    written = open_terminal()
    assert run("generate", "detect cat", "a.png")[0] == 0
    assert "<loc" not in written()


def test_a_bar_accompanies_several_and_never_touches_stdout(run, open_terminal, monkeypatch, capsys):
    monkeypatch.setattr("paligemma.interfaces.cli.progress.REFRESH_S", 0)
    _, expected, _ = run("caption", "a.png", "b.jpg", "--json", "-q")
    written = open_terminal(stdout=False)
    status, out, _ = run("caption", "a.png", "b.jpg", "--json")
    shown = written()
    assert status == 0
    assert [row["raw"] for row in json.loads(out)["results"]] == [r["raw"] for r in json.loads(expected)["results"]]
    assert "1/2" in shown
    run("caption", "a.png")
    assert "━" not in written()


@pytest.mark.parametrize(
    ("model", "status"), [("./missing", 3), ("paligemma2-3b-mix-224", 3), (".", 5), ("a.png", 5), ("no-such-model", 3)]
)
def test_a_model_that_is_not_there_or_none_is_one_sentence(pictures, capsys, model, status):
    for arguments in (["a.png"], ["a.png", "b.jpg"]):
        assert main(["caption", *arguments, "--model", model]) == status
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1


def test_a_model_without_its_tokenizer_says_so(tiny, pictures, capsys):
    for name in ("config.json", "model.safetensors"):
        (pictures / name).write_bytes((tiny / name).read_bytes())
    assert main(["caption", "a.png", "--model", str(pictures)]) == 5
    assert "tokenizer" in capsys.readouterr().err
    assert main(["caption", "a.png", "--model", str(pictures), "--tokenizer", str(tiny), *NONSENSE]) == 0


def test_memory_holds_one_batch(run, monkeypatch):
    """Of many pictures no more are open than are answered together."""
    Path("many").mkdir()
    for i in range(12):
        Image.new("RGB", (20, 20), (20 * i, 0, 0)).save(f"many/{i:02}.png")
    made, alive = [], []
    run_batch = answering.Asked._run

    def count(asked, items):
        alive.append(sum(answer() is not None for answer in made))
        found = run_batch(asked, items)
        made.extend(weakref.ref(answer) for answer in found)
        return found

    monkeypatch.setattr(answering.Asked, "_run", count)
    assert run("caption", "many", "--jsonl", "--batch-size", "2")[0] == 0
    assert (len(alive), len(made)) == (6, 12)
    assert max(alive) <= 2
