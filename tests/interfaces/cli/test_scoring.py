import io
import json
import sys
from pathlib import Path

import pytest

from paligemma.interfaces.cli import main, scoring

WORDS = ["cat", "dog", "a purple cat"]


@pytest.fixture
def run(tiny, pictures, capsys):
    def run(*arguments):
        status = main(["score", *arguments, "--model", str(tiny)])
        return (status, *capsys.readouterr())

    return run


def test_candidates_are_ranked_likeliest_first(run):
    status, out, _ = run("a.png", "answer en which?", *WORDS, "--json")
    told = json.loads(out)
    assert status == 0
    assert (told["task"], told["prompt"], told["images"]) == ("score", "answer en which?", [{"path": "a.png"}])
    found = told["candidates"]
    assert {row["text"] for row in found} == set(WORDS)
    assert [row["logprob"] for row in found] == sorted((row["logprob"] for row in found), reverse=True)
    assert sum(row["probability"] for row in found) == pytest.approx(1, abs=1e-5)


def test_people_get_a_table_in_the_same_order(run):
    _, out, _ = run("a.png", "answer en which?", *WORDS)
    best = json.loads(run("a.png", "answer en which?", *WORDS, "--json")[1])["candidates"][0]
    header, first, *rest = out.splitlines()
    assert header.split() == ["probability", "log", "p", "answer"]
    assert first.split(maxsplit=2) == [f"{best['probability']:.3f}", f"{best['logprob']:.2f}", best["text"]]
    assert len(rest) == 2


def test_a_question_gets_its_prompt(run):
    asked = json.loads(run("a.png", "which?", *WORDS, "--ask", "--lang", "de", "--json")[1])
    typed = json.loads(run("a.png", "answer de which?", *WORDS, "--json")[1])
    assert asked["prompt"] == "answer de which?"
    assert asked["candidates"] == typed["candidates"]


def test_a_picture_may_come_from_stdin(run, monkeypatch):
    data = Path("a.png").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(data))))
    piped = json.loads(run("-", "which?", *WORDS, "--json")[1])
    assert piped["candidates"] == json.loads(run("a.png", "which?", *WORDS, "--json")[1])["candidates"]


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["a.png", "which?", "cat"], 2),
        (["a.png", "which?"], 2),
        (["a.png", "which?", "cat", "cat"], 2),
        (["a.png", "which?", "cat", ""], 2),
        ([".", "which?", *WORDS], 2),
        (["missing.png", "which?", *WORDS], 4),
        (["bad.png", "which?", *WORDS], 4),
    ],
)
def test_what_cannot_be_ranked_is_one_sentence(run, arguments, status):
    got, out, err = run(*arguments)
    assert (got, out) == (status, "")
    assert err.count("\n") == 1


def test_a_wrong_picture_loads_no_model(pictures, capsys, monkeypatch):
    monkeypatch.setattr(scoring, "load", lambda options: pytest.fail("a model was loaded"))
    assert main(["score", "missing.png", "which?", *WORDS]) == 4
