"""The processor of a checkpoint: its resizer, its number of tokens, and whose tokenizer it takes."""

from dataclasses import replace

import pytest

from paligemma.checkpoints import resolve
from paligemma.checkpoints.load import open_checkpoint
from paligemma.checkpoints.processing import load_processor
from paligemma.errors import CheckpointError, UsageError


@pytest.fixture(scope="module")
def opened():
    return open_checkpoint(resolve("nano"))


@pytest.mark.parametrize(
    ("stored", "asked", "taken"),
    [
        ("bilinear", None, "bilinear-antialias"),  # a file means Pillow's, which averages
        ("bilinear", "bilinear", "bilinear"),  # a person means big_vision's
        ("bicubic", None, "bicubic"),
    ],
)
def test_the_resizer(opened, stored, asked, taken):
    image = replace(opened.image, resize=stored)
    assert load_processor(opened.config, image, opened.tokenizer_path, resize=asked).resize == taken


@pytest.mark.parametrize(("stored", "asked"), [("cubic", None), ("bicubic", "cubic")])
def test_an_unknown_resizer_is_told(opened, stored, asked):
    with pytest.raises(UsageError, match="did you mean 'bicubic'"):
        load_processor(opened.config, replace(opened.image, resize=stored), opened.tokenizer_path, resize=asked)


def test_another_resolution_has_other_tokens(opened):
    larger = opened.config.at_resolution(2 * opened.config.vision.image_size_px)
    processor = load_processor(larger, opened.image, opened.tokenizer_path)
    assert processor.image_size_px == 2 * opened.config.vision.image_size_px
    assert processor.num_image_tokens == 4 * opened.config.vision.num_image_tokens


def test_the_tokenizer_of_another_model_is_refused(opened):
    text = replace(opened.config.text, vocab_size=opened.config.text.vocab_size - 100, padding_rows=0)
    with pytest.raises(CheckpointError, match="use the tokenizer that belongs to this model"):
        load_processor(replace(opened.config, text=text), opened.image, opened.tokenizer_path)
