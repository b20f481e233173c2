"""The demo's reading: golden examples are in test_vae.py; here are its rules, one by one."""

import json
from pathlib import Path

import pytest

from paligemma.doctor.demo_parser import DemoObject, extract_objects

CASES = json.loads((Path(__file__).parents[1] / "data/golden/vae/text_cases.json").read_text())["demo_parser"]
PLACE = "<loc0102><loc0051><loc0920><loc0819>"
CODES = "".join(f"<seg{i:03d}>" for i in range(16))


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_pieces_of_the_golden_answers(case):
    found = extract_objects(case["text"], unique_labels=case["unique_labels"])
    assert [(thing.content, thing.name) for thing in found] == [(o["content"], o.get("name")) for o in case["objs"]]
    assert "".join(thing.content for thing in found) == case["text"]


def test_labels_keep_the_space_behind_them_and_repetitions_are_marked():
    one = f"{PLACE} cat ; "
    assert [thing.name for thing in extract_objects(one * 3, unique_labels=True)] == ["cat ", "cat '", "cat ''"]
    assert [thing.name for thing in extract_objects(one * 2)] == ["cat ", "cat "]


def test_codes_count_only_in_sixteens():
    (thing,) = extract_objects(PLACE + CODES + " x")
    assert (thing.codes, thing.loc, thing.name) == (tuple(range(16)), (102, 51, 920, 819), "x")
    assert [t.codes for t in extract_objects(PLACE + CODES[:-8])] == [None, None]


def test_edges_are_rounded_half_to_even_and_not_kept_inside():
    assert DemoObject("", loc=(512, 0, 1024, 1536)).xyxy(3, 5) == (0, 2, 4, 5)
