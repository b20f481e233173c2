import json
import shutil
from pathlib import Path

import pytest

from paligemma.doctor.processor import check
from paligemma.errors import CheckpointError, UnavailableError

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "processor"


@pytest.fixture
def copy(tmp_path):
    return Path(shutil.copytree(GOLDEN, tmp_path / "processor"))


def damage(file, change):
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))


def broken(directory):
    return {row.name: row for row in check(directory) if not row.ok}


def test_every_golden_case_is_met():
    rows = check(GOLDEN)
    assert [row for row in rows if not row.ok] == []
    cases = json.loads((GOLDEN / "cases.json").read_text())
    for name, golden in cases.items():
        numbered = {row.name.split(" ")[0] for row in rows if row.name.startswith(f"{name}/")}
        assert {f"{name}/{i:02d}" for i in range(len(golden["cases"]))} < numbered
    assert len(rows) == len({row.name for row in rows})


@pytest.mark.parametrize("key", ["input_ids", "token_type_ids", "attention_mask", "labels"])
def test_one_wrong_number_breaks_one_row(copy, key):
    def change(data):
        data["hub"]["cases"][0][key][0][-1] += 1

    damage(copy / "cases.json", change)
    assert f"hub/00 auto_image: {key}" in broken(copy)


def test_missing_places_count(copy):
    def change(data):
        data["added"]["cases"][0]["plain_tokenizer_ids"] += [5, 5]
        data["added"]["cases"][0]["decoded_skip_special"] += "!"

    damage(copy / "cases.json", change)
    found = broken(copy)
    assert found["added/00 auto_image: plain_tokenizer_ids"].difference == 2
    assert found["added/00 auto_image: decoded_skip_special"].difference == 1
    assert len(found) == 2


def test_errors_must_agree_in_both_directions(copy):
    def change(data):
        for case in data["hub"]["cases"]:
            if "error" in case:
                del case["error"]
        data["hub"]["cases"][0]["error"] = "ValueError: something"

    damage(copy / "cases.json", change)
    found = broken(copy)
    assert "the reference says ValueError" in found["hub/00 auto_image: error"].note
    assert any("wrong_image_count" in name for name in found)


def test_big_visions_cases_can_break_too(copy):
    def change(data):
        data["prompts"][0]["prefix_ids"][0] = 7
        data["suffixes"][1]["suffix_ids"].pop()

    damage(copy / "bv_tokens.json", change)
    found = broken(copy)
    assert found["big_vision/00 prompts: prefix_ids"].difference == 1
    assert found["big_vision/01 suffixes: suffix_ids"].difference == 1


def test_a_directory_without_big_visions_part_is_checked(copy):
    (copy / "bv_tokens.json").unlink()
    assert all(row.ok for row in check(copy))


def test_files_that_cannot_be_read_are_errors(copy):
    (copy / "cases.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"cases\.json cannot be read"):
        check(copy)
    shutil.copy(GOLDEN / "cases.json", copy / "cases.json")
    shutil.rmtree(copy / "tok-added")
    with pytest.raises(UnavailableError):
        check(copy)
