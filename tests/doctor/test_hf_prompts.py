import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from paligemma.config import IMAGE_SLOT
from paligemma.doctor.hf_prompts import HFProcessor
from paligemma.errors import InputError, PaliGemmaError, UsageError
from paligemma.tokenizer import Tokenizer

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "processor"
KEYS = ("input_ids", "token_type_ids", "attention_mask", "labels")
OURS = HFProcessor(Tokenizer.load(GOLDEN / "tok-hub"), num_image_tokens=16)
CASES = json.loads((GOLDEN / "cases.json").read_text())["hub"]["cases"]


@pytest.fixture(scope="module")
def theirs():
    transformers.logging.set_verbosity_error()
    return transformers.PaliGemmaProcessor.from_pretrained(GOLDEN / "tok-hub")


PARTS = st.sampled_from(
    ["caption en", " ", "\n", "\n\n", "<loc0001>", "<eos>", "<bos>", "<mask>", "cat", "\u2581\u2581", "  ", "<b>",
     "Stra\u00dfe", "\u732b", "<seg010>", "a long prompt ", "<unused1>"]
)  # fmt: skip
TEXTS = st.lists(PARTS, max_size=7).map("".join)


@st.composite
def calls(draw):
    """Arguments of one call: prompts with or without typed images, suffixes, padding, cutting; some of them wrong."""
    counts = draw(st.lists(st.integers(1, 2), min_size=1, max_size=3))
    typed = draw(st.booleans())
    prompts = [draw(TEXTS) + "<image>" * (count if typed else 0) + draw(TEXTS) for count in counts]
    suffixes = draw(st.none() | st.lists(TEXTS, min_size=len(counts), max_size=len(counts)))
    options = {"padding": draw(st.sampled_from(["longest", "max_length"]))}
    options["padding_side"] = draw(st.sampled_from(["left", "right"]))
    options["max_length"] = draw(st.integers(18, 60))
    if draw(st.booleans()):
        options["truncation"] = True
    return counts, prompts, suffixes, options


@given(call=calls())
@settings(max_examples=60, deadline=None)
def test_rows_and_errors_equal_hugging_faces(theirs, call):
    counts, prompts, suffixes, options = call
    image = Image.new("RGB", (8, 8))
    try:
        output = theirs(images=[[image] * count for count in counts], text=prompts, suffix=suffixes, **options)
    except ValueError:
        with pytest.raises(PaliGemmaError):
            OURS.encode(prompts, suffixes, num_images=counts, **options)
    else:
        expected = {key: np.asarray(output[key]).tolist() for key in KEYS}
        assert OURS.encode(prompts, suffixes, num_images=counts, **options) == expected


def test_golden_rows():
    seen = 0
    for case in CASES:
        if case["kind"] in ("auto_image", "suffix", "explicit_image"):
            got = OURS.encode(case["text"], case.get("suffix"), num_images=case.get("n_images", 1))
            assert got == {key: case[key] for key in KEYS}
            seen += 1
    assert seen > 30


def test_bos_goes_behind_the_last_image():
    (row,) = OURS.encode("a<image>b<image>c", num_images=2)["input_ids"]
    assert row.index(2) == len(row) - 3
    assert row.count(2352) == 32


def test_wrong_numbers_are_refused():
    with pytest.raises(InputError, match="found 1 <image> in the texts but 2 images"):
        OURS.encode("<image>a", num_images=2)
    with pytest.raises(InputError, match="bos"):
        OURS.encode(["<image><image>a", "b"], num_images=[1, 1])
    with pytest.raises(InputError, match="make no array"):
        OURS.encode(["a", "a long prompt"])
    with pytest.raises(InputError, match="asks for 16 image tokens but the row has 10"):
        OURS.encode("a", max_length=10, truncation=True)
    with pytest.raises(UsageError, match="found 2 texts"):
        OURS.encode(["a", "b"], ["c"])
    with pytest.raises(UsageError, match="found padding"):
        OURS.encode("a", padding="max_length")


def test_a_vocabulary_without_image_token_is_refused():
    with pytest.raises(UsageError, match="has no <image> token"):
        HFProcessor(Tokenizer.load(GOLDEN / "tokenizer.model"), num_image_tokens=16)


def test_rows_become_a_batch_for_the_model():
    rows = OURS.encode(["ocr", "caption en"], ["a", "a cat"], padding="longest")
    pixels = torch.zeros(2, 3, 8, 8)
    batch = OURS.batch(rows, pixels)
    assert (batch.tokens == IMAGE_SLOT).sum(-1).tolist() == [16, 16]
    assert batch.tokens.max() < OURS.image_id
    assert batch.mask_ar.tolist() == rows["token_type_ids"]
    assert batch.mask_input.long().tolist() == rows["attention_mask"]
    assert torch.equal(batch.mask_loss, batch.mask_ar)
    assert batch.pixels is pixels


def test_special_tokens_are_dropped_as_the_file_says():
    ids = [2, 4, *OURS.tokenizer.encode("cat"), 1]
    assert OURS.decode(ids) == "<bos><mask>cat<eos>"
    assert OURS.decode(ids, skip_special_tokens=True) == "cat"
