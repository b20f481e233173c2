import math

import pytest

from paligemma.errors import UsageError
from paligemma.interfaces.cli import main
from paligemma.interfaces.cli.options import AnswerOptions, BoxOptions, OutputOptions, SourceOptions


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": 0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"temperature": 1.0, "top_p": 0.0},
        {"temperature": 1.0, "top_p": 1.5},
        {"temperature": 1.0, "top_k": 0},
        {"num_beams": 0},
        {"num_beams": 2, "temperature": 0.5},
        {"top_k": 5},
        {"batch_size": 0},
        {"stop_repeats": 1},
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError, match="--"):
        AnswerOptions(**wrong)


def test_good_settings_are_taken():
    AnswerOptions(max_tokens=1, temperature=0.7, top_k=1, top_p=1.0, seed=-3)
    assert "batch_size" not in AnswerOptions(num_beams=4).of_api()
    assert AnswerOptions(num_beams=4).of_api()["num_beams"] == 4
    assert "stop_repeats" not in AnswerOptions().of_api()
    assert [AnswerOptions(stop_repeats=n).of_api()["stop_repeats"] for n in (0, 8)] == [None, 8]


@pytest.mark.parametrize(
    "wrong", [{"stride": 0}, {"frames": 0}, {"fps": 0}, {"fps": math.nan}, {"fps": math.inf}, {"fps": 1, "stride": 2}]
)
def test_one_choice_of_frames(wrong):
    with pytest.raises(UsageError, match="--"):
        SourceOptions(**wrong)


def test_any_word_about_frames_makes_animations_videos():
    assert not SourceOptions(recursive=True).wants_frames
    assert all(SourceOptions(**said).wants_frames for said in ({"clip": True}, {"fps": 1}, {"stride": 1}))


@pytest.mark.parametrize(
    "wrong", [{"conf": -0.1}, {"conf": 1.1}, {"conf": math.nan}, {"max_objects": 0}, {"tiles": "2"}, {"tiles": "0x2"}]
)
def test_wrong_words_about_boxes_are_refused(wrong):
    with pytest.raises(UsageError, match="--"):
        BoxOptions(**wrong)


def test_only_what_is_said_about_boxes_is_handed_on():
    assert BoxOptions(save_crops="x").of_api() == {}
    said = BoxOptions(conf=0.3, max_objects=2, no_grammar=True, tiles="2x3", any_label=True, duplicates=True).of_api()
    expected = {"conf": 0.3, "max_objects": 2, "grammar": False, "tiles": (2, 3), "any_label": True, "duplicates": True}
    assert said == expected
    assert BoxOptions(tiles="auto").of_api() == {"tiles": True}


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ({}, "table"),
        ({"json": True}, "json"),
        ({"jsonl": True}, "jsonl"),
        ({"raw": True}, "raw"),
        ({"out": "x.csv"}, "csv"),
        ({"out": "x.JSON"}, "json"),
        ({"out": "x.txt"}, "table"),
        ({"out": "json"}, "table"),
        ({"out": "x.json", "format": "coco"}, "coco"),
        ({"out": "labels", "format": "yolo"}, "yolo"),
    ],
)
def test_the_format_follows_from_what_is_said(said, kind):
    assert OutputOptions(**said).kind == kind


@pytest.mark.parametrize(
    "wrong",
    [
        {"json": True, "jsonl": True},
        {"json": True, "format": "csv"},
        {"raw": True, "jsonl": True},
        {"quiet": True, "verbose": True},
        {"format": "yolo"},
    ],
)
def test_contradictions_are_refused(wrong):
    with pytest.raises(UsageError, match="--"):
        OutputOptions(**wrong)


@pytest.mark.parametrize(
    "words",
    [
        ["caption", "examples/scene.png", "--save", "x.png"],
        ["batch", "examples/scene.png", "--out", "x", "--task", "caption"],
        ["ui"],
    ],
)
def test_shared_models_only_print(words, capsys, monkeypatch):
    monkeypatch.setattr("paligemma.interfaces.webui.server.need_gradio", lambda: None)
    assert main([*words, "--parallel", "tensor"]) == 2
    assert "--parallel tensor only prints answers" in capsys.readouterr().err
