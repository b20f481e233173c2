import numpy as np
import pytest
from PIL import Image
from tests.data.checking import MASK, PLACE, PROCESSOR, Listed, picture, row
from tests.pictures import stored

from paligemma.data.check import ENDLESS_ROWS, check
from paligemma.data.digits import DigitsSource
from paligemma.data.example import ENDLESS
from paligemma.data.findings import SEVERITIES
from paligemma.data.left_out import LeftOut
from paligemma.data.listed import BadRow
from paligemma.data.scenes import SceneSource
from paligemma.errors import InputError


def look(*rows, **given):
    return check(Listed(*rows), PROCESSOR, **given)


def test_sound_data_has_no_finding():
    words = "a cat", "two dogs", "rain", "on the red mat", "ships at night", "nothing"
    found = look(*(row(i, suffix=f"{words[i % 6]} {words[i // 6 % 6]}") for i in range(30)), max_tokens=64)
    assert found.counts == {}
    assert (found.rows, found.total, found.tasks) == (30, 30, {"caption": 30})
    assert found.sides_px == (80, 96, 96, 80)
    assert sum(found.tokens.values()) == 30


PROVOKED = {
    "bad_row": [BadRow("pets.jsonl:2", "sufix", "unknown key 'sufix'; did you mean 'suffix'?")],
    "bad_picture": [row(1, image=b"nothing")],
    "bad_text": [row(1, suffix="a \ud800 cat")],
    "empty_prefix": [row(1, prefix="")],
    "newline_in_prefix": [row(1, prefix="caption en\n")],
    "bad_location": [row(1, prefix="detect cat", suffix="<loc2000><loc0000><loc0001><loc0002> cat")],
    "split_location": [row(1, suffix=f"a cat at {PLACE}")],
    "bad_boxes": [row(1, prefix="detect cat", suffix="<loc0300><loc0200><loc0100><loc0400> cat")],
    "too_long": [row(1, suffix="word " * 40 + "word")],
    "in_validation": [row(1, image=picture(77), suffix="x")],
    "unusual_prompt": [row(1, prefix="caption")],
    "outer_spaces": [row(1, suffix=" a cat")],
    "empty_suffix": [row(1, suffix="")],
    "unasked_label": [row(1, prefix="detect cat", suffix=f"{PLACE} dog")],
    "repeated_box": [row(1, prefix="detect cat", suffix=f"{PLACE} cat ; {PLACE} cat")],
    "duplicate": [row(1, suffix="x"), row(2, suffix="x", image=picture(1))],
    "contradiction": [row(1, suffix="x"), row(2, suffix="y", image=picture(1))],
    "look_alike": [row(1), row(2, image=stored(picture(1), "JPEG", quality=85))],
    "picture_in_validation": [row(1, prefix="describe en", image=picture(77))],
    "small_picture": [row(1, image=picture(1, (20, 40)))],
    "narrow_picture": [row(1, image=picture(1, (400, 40)))],
    "one_answer": [row(i, suffix="yes" if i % 4 else f"no {i}") for i in range(24)],
    "alike_answers": [row(i, suffix=f"this is a very nice picture of the number {i}") for i in range(24)],
    "rare_labels": [row(i, prefix="detect cat", suffix=f"{PLACE} {'dog' if i == 3 else 'cat'}") for i in range(24)],
}


@pytest.mark.parametrize("code", SEVERITIES)
def test_each_finding_is_provoked(code):
    held_out = Listed(row(1, image=picture(77)), BadRow("v:2", "image", "gone"))
    found = look(*PROVOKED[code], row(99), max_tokens=40, held_out=held_out)
    assert found.counts[code] >= 1
    shown = next(finding for finding in found.listed if finding.code == code)
    assert shown.why
    assert shown.fix
    assert (shown.index in found.bad) == (shown.severity == "error")
    assert (shown.index >= 0) == bool(shown.row)
    if SEVERITIES[code] == "error":
        assert len(found.bad) == 1
        left = LeftOut(Listed(*PROVOKED[code], row(99)), found.bad)
        assert look(left[0], max_tokens=40, held_out=held_out).errors == 0


def test_every_bad_row_is_told_not_only_the_first():
    rows = [row(0), BadRow("pets:1", "image", "gone"), row(2, prefix=""), InputError("broken; mend it"), row(4)]
    found = look(*rows)
    assert sorted(found.bad) == [1, 2, 3]
    told = {finding.index: (finding.row, finding.field, finding.why, finding.fix) for finding in found.listed}
    assert told[1] == ("pets:1", "image", "gone", "mend it")
    assert told[3] == ("pets:3", "row", "broken", "mend it")


def test_lengths_are_those_of_training():
    example = row(1, prefix="segment cat", suffix=f"{PLACE}{MASK} cat")
    found = look(example)
    encoded = PROCESSOR.encode([example.images[0]], example.prefix, example.suffix, allow=example.allow)
    assert list(found.tokens) == [len(encoded.tokens) - PROCESSOR.num_image_tokens]
    assert found.longest == "pets:1"
    length = next(iter(found.tokens))
    assert look(example, max_tokens=length).errors == 0
    assert look(example, max_tokens=length - 1).counts["too_long"] == 1


def test_labels_and_answers_are_counted():
    boxes = f"{PLACE} cat ; <loc0000><loc0000><loc0009><loc0009> cat ; <loc0000><loc0500><loc0009><loc0509> dog"
    yes = [row(i, prefix="answer en yes?", suffix="yes") for i in range(10)]
    found = look(row(90, prefix="detect cat ; dog", suffix=boxes), *yes, row(91, prefix="answer en yes?", suffix="no"))
    assert found.labels == {"cat": 2, "dog": 1}
    assert found.answers == {"ask": 10 / 11}


def test_a_limit_looks_at_rows_from_everywhere():
    rows = [row(i) for i in range(60)]
    found = look(*rows, limit=10)
    assert (found.rows, found.total) == (10, 60)
    bad = [BadRow(f"pets:{i}", "row", "x") for i in range(60)]
    indices = list(check(Listed(*bad), PROCESSOR, limit=10).bad)
    assert len(set(indices)) == 10
    assert max(indices) > 30


def test_of_endless_data_some_are_looked_at():
    class Endless(Listed):
        def __len__(self):
            return ENDLESS

        def __getitem__(self, index):
            return row(0, suffix=str(index))

    assert check(Endless(), PROCESSOR).rows == ENDLESS_ROWS


def test_progress_is_told():
    done = []
    look(*(row(i) for i in range(4)), watch=done.append)
    assert done == [1, 2, 3, 4]


def test_our_own_data_is_sound():
    scenes = check(SceneSource(side_px=32), PROCESSOR, max_tokens=128, limit=60)
    assert (scenes.errors, scenes.total, scenes.rows) == (0, None, 60)
    held_out = DigitsSource(split="test", side_px=32)
    digits = check(DigitsSource(side_px=32), PROCESSOR, max_tokens=128, limit=200, held_out=held_out)
    assert digits.counts == {}


def test_a_picture_in_colour_noise_opens(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    assert look(row(1, image=tmp_path / "a.png")).errors == 0
