import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from paligemma.api import load
from paligemma.data.example import Example
from paligemma.errors import InputError, UsageError
from paligemma.train.streams import ExampleStream, Loader, encode

ROOT = Path(__file__).parents[2]


class Examples:
    """Numbers, written out; example 13 may be bad."""

    fingerprint = "numbers"

    def __init__(self, bad=None):
        self.bad = bad

    def __getitem__(self, position):
        if position == self.bad:
            raise InputError(f"numbers:{position}: it is bad; mend it")
        color = ((7 * position) % 256, (31 * position) % 256, 90)
        return Example(
            id=f"numbers:{position}", images=(Image.new("RGB", (20, 30), color),), prefix="answer en what number?",
            suffix=" ".join(str(position)) + " and more" * (position % 5), source="numbers",
        )  # fmt: skip


@pytest.fixture(scope="module")
def processor():
    return load("nano-pt-112").processor


def stream_of(processor, **changes):
    settings = {"batch_size": 12, "micro_batch": 4, "max_tokens": 64}
    return ExampleStream(Examples(), processor, **{**settings, **changes})


def ids(batches):
    return [one for batch in batches for one in batch.ids]


def test_a_step_holds_its_positions_by_length(processor):
    batches = stream_of(processor).micro_batches(2)
    assert [len(batch.tokens) for batch in batches] == [4, 4, 4]
    assert sorted(ids(batches), key=lambda one: int(one[8:])) == [f"numbers:{i}" for i in range(24, 36)]
    lengths = torch.cat([batch.mask_input.sum(1) for batch in batches])
    assert lengths.tolist() == sorted(lengths.tolist())
    assert all(batch.tokens.shape[1] == batch.mask_input.sum(1).max() for batch in batches), "no needless padding"
    for batch in batches:
        assert batch.mask_input[:, 0].all(), "padding is on the right"
        assert set(batch.sources) == {"numbers"}


def test_a_row_is_prompt_suffix_and_eos(processor):
    example = Examples()[3]
    row = encode(example, processor)
    answer = row.tokens[row.mask_loss == 1]
    assert answer[-1] == processor.tokenizer.eos_id
    assert processor.tokenizer.decode(answer[:-1].tolist()) == example.suffix
    prompt = row.tokens[processor.num_image_tokens :][: -len(answer)]
    assert prompt.tolist() == processor.prompt_ids(example.prefix)


def test_the_same_step_is_always_the_same(processor):
    first, again = (stream_of(processor).micro_batches(5) for _ in range(2))
    for a, b in zip(first, again, strict=True):
        assert a.ids == b.ids
        assert torch.equal(a.tokens, b.tokens)
        assert torch.equal(a.pixels, b.pixels)


def test_ranks_share_a_step_without_overlap(processor):
    alone = ids(stream_of(processor).micro_batches(1))
    shares = [ids(stream_of(processor).micro_batches(1, rank, 3)) for rank in range(3)]
    assert [len(share) for share in shares] == [4, 4, 4]
    assert sorted(one for share in shares for one in share) == sorted(alone)
    with pytest.raises(UsageError, match="12 examples cannot be shared by 5 processes"):
        stream_of(processor).micro_batches(0, 0, 5)


def test_a_batch_moves_with_its_names(processor):
    batch = stream_of(processor).micro_batches(0)[0]
    moved = batch.to("meta")
    assert moved.tokens.device.type == "meta"
    assert moved.ids == batch.ids


def test_a_row_that_is_too_long_is_named_and_never_cut(processor):
    with pytest.raises(InputError, match=r"numbers:\d: image and text take .* tokens"):
        stream_of(processor, max_tokens=12).micro_batches(0)


def test_the_limit_counts_text_alone(processor):
    row = encode(Examples()[4], processor)
    text = len(row.tokens) - processor.num_image_tokens
    encode(Examples()[4], processor, text)
    with pytest.raises(InputError, match="numbers:4"):
        encode(Examples()[4], processor, text - 1)


def test_pictures_come_from_files_too(processor, tmp_path):
    Image.new("RGB", (20, 30), "red").save(tmp_path / "a.png")
    example = Example(id="x", images=(tmp_path / "a.png", (tmp_path / "a.png").read_bytes()), prefix="p", suffix="s")
    pixels = encode(example, processor).pixels
    assert len(pixels) == 2
    assert torch.equal(pixels[0], pixels[1])
    with pytest.raises(InputError, match="x: there is no file"):
        encode(Example(id="x", images=(tmp_path / "b.png",), prefix="p", suffix="s"), processor)


def test_location_tokens_are_tokens_where_the_prompt_asks_for_them(processor):
    box = "<loc0001><loc0002><loc0003><loc0004> cat"
    picture = (Image.new("RGB", (8, 8)),)
    asked = encode(Example(id="x", images=picture, prefix="detect cat", suffix=box), processor)
    plain = encode(Example(id="x", images=picture, prefix="caption en", suffix=box), processor)
    assert processor.tokenizer.loc_start + 1 in asked.tokens
    assert processor.tokenizer.loc_start + 1 not in plain.tokens


def test_steps_without_workers(processor):
    stream = stream_of(processor)
    with Loader(stream, start=3, stop=6, workers=0) as loader:
        found = list(loader)
    assert [ids(step) for step in found] == [ids(stream.micro_batches(step)) for step in (3, 4, 5)]


# Worker processes hand tensors over by pickle, which this process refuses: they are tried in one of their own.
WORKERS = """
import os, time
import torch
from tests.train.test_streams import Examples, ids, stream_of
from paligemma.api import load
from paligemma.data.example import ENDLESS
from paligemma.data.mixture import Mixture
from paligemma.errors import PaliGemmaError
from paligemma.train.streams import Loader

class Bad(Examples):
    name = "numbers"
    def __init__(self, at, act):
        super().__init__()
        self.at, self.act = at, act
    def __len__(self):
        return ENDLESS
    def __getitem__(self, position):
        if position == self.at:
            self.act()
        return super().__getitem__(position)

def told(examples, **more):
    stream.examples = examples
    done = 0
    try:
        with Loader(stream, start=0, stop=4, **more) as loader:
            for batches in loader:
                with loader.watched():
                    done += 1
                    time.sleep(0.2)
    except PaliGemmaError as error:
        print(type(error).__name__, "after", done, ":", error)

if __name__ == "__main__":
    torch.set_num_threads(1)
    stream = stream_of(load("nano-pt-112").processor)
    with Loader(stream, start=2, stop=8, workers=2) as loader:
        found = [ids(step) for step in loader]
    assert found == [ids(stream.micro_batches(step)) for step in range(2, 8)]
    print("same")
    told(Examples(bad=30), workers=2)
    told(Mixture([(Bad(27, lambda: os._exit(9)), 1.0)], seed=0), workers=2)
    told(Bad(17, lambda: time.sleep(60)), workers=1, timeout_s=3)
"""


def test_steps_made_ahead_by_workers(tmp_path):
    script = tmp_path / "workers.py"
    script.write_text(WORKERS)
    done = subprocess.run(
        [sys.executable, script], cwd=ROOT, env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""},
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    same, bad, died, hung = done.stdout.splitlines()
    assert same == "same"
    assert bad == "InputError after 2 : numbers:30: it is bad; mend it"
    assert died.startswith("ResourceError")
    assert "died at step 2 with row 27 of numbers" in died
    assert hung.startswith("ResourceError after 1 : a data worker did not answer for 3 s at step 1 with position 17")
