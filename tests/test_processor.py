import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from paligemma.config import IMAGE_SLOT
from paligemma.errors import InputError, UsageError
from paligemma.pixels import to_pixels
from paligemma.processor import Processor
from paligemma.tokenizer import CONTROLS, LOCATIONS, Tokenizer

GOLDEN = Path(__file__).parent / "data" / "golden" / "processor"
TOKENIZER = Tokenizer.load(GOLDEN / "tok-hub")
PROCESSOR = Processor(TOKENIZER, image_size_px=8, num_image_tokens=4)
BOS, EOS, NEWLINE = TOKENIZER.bos_id, TOKENIZER.eos_id, TOKENIZER.newline_id


def picture(level):
    """A ready image tensor whose every value is `level`."""
    return torch.full((3, 8, 8), level)


def photo(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (13, 21, 3), dtype=np.uint8))


# --- one example ------------------------------------------------------------------------------------------------------


def test_a_prompt_is_slots_bos_prefix_newline():
    encoded = PROCESSOR.encode([picture(0.5)], "caption en")
    ids = TOKENIZER.encode("caption en")
    assert encoded.tokens.tolist() == [IMAGE_SLOT] * 4 + [BOS, *ids, NEWLINE]
    assert encoded.mask_ar.tolist() == encoded.mask_loss.tolist() == [0] * len(encoded.tokens)
    assert encoded.tokens.dtype == encoded.mask_ar.dtype == encoded.mask_loss.dtype == torch.int64
    assert encoded.pixels.shape == (1, 3, 8, 8)
    assert encoded.pixels.dtype == torch.float32


def test_a_suffix_follows_with_eos_and_is_what_is_learnt():
    encoded = PROCESSOR.encode([picture(0.0)], "ocr", "a cat")
    suffix = [*TOKENIZER.encode("a cat"), EOS]
    assert encoded.tokens.tolist()[-len(suffix) :] == suffix
    expected = [0] * (len(encoded.tokens) - len(suffix)) + [1] * len(suffix)
    assert encoded.mask_ar.tolist() == encoded.mask_loss.tolist() == expected


def test_an_empty_suffix_teaches_to_stop():
    assert PROCESSOR.encode([picture(0.0)], "ocr", "").tokens.tolist()[-2:] == [NEWLINE, EOS]


def test_golden_rows_of_big_vision():
    golden = json.loads((GOLDEN / "bv_tokens.json").read_text())
    processor = Processor(Tokenizer.load(GOLDEN / "tokenizer.model"), image_size_px=8, num_image_tokens=4)
    for case in golden["suffixes"]:
        encoded = processor.encode([picture(0.0)], case["prefix"], case["suffix"], allow=frozenset({LOCATIONS}))
        assert encoded.tokens.tolist()[4:] == case["prefix_ids"] + case["suffix_ids"]
        assert encoded.mask_loss.tolist() == [0] * (4 + len(case["prefix_ids"])) + [1] * len(case["suffix_ids"])


@given(prefix=st.text(alphabet="a \n\u2581<eos>", max_size=12))
def test_newlines_of_the_prefix_never_join_the_separator(prefix):
    tokens = PROCESSOR.encode([picture(0.0)], prefix).tokens.tolist()
    assert tokens == [IMAGE_SLOT] * 4 + [BOS, *TOKENIZER.encode(prefix), NEWLINE]


@given(prefix=st.lists(st.sampled_from(["<image>", "<eos>", "<bos>", "<pad>", "<loc0001>", "cat", " "])).map("".join))
def test_typed_specials_stay_text(prefix):
    tokens = PROCESSOR.encode([picture(0.0)], prefix, prefix).tokens.tolist()
    assert tokens.count(IMAGE_SLOT) == 4
    assert (tokens.count(BOS), tokens.count(EOS), tokens.count(TOKENIZER.image_id)) == (1, 1, 0)
    assert max(tokens) < TOKENIZER.loc_start


def test_allowed_classes_reach_prefix_and_suffix():
    encoded = PROCESSOR.encode([picture(0.0)], "<loc0001>", "<seg002>", allow=frozenset({LOCATIONS}))
    assert TOKENIZER.loc_start + 1 in encoded.tokens
    assert TOKENIZER.seg_start + 2 in encoded.tokens
    assert EOS in PROCESSOR.encode([picture(0.0)], "<eos>", allow=frozenset({CONTROLS})).tokens


# --- images -----------------------------------------------------------------------------------------------------------


def test_several_images_keep_their_order():
    encoded = PROCESSOR.encode([picture(0.1), picture(0.2), picture(0.3)], "compare")
    assert encoded.tokens.tolist()[:13] == [IMAGE_SLOT] * 12 + [BOS]
    assert encoded.pixels[:, 0, 0, 0].tolist() == pytest.approx([0.1, 0.2, 0.3])


def test_one_image_needs_no_list():
    one, listed = PROCESSOR.encode(photo(0), "ocr"), PROCESSOR.encode([photo(0)], "ocr")
    assert torch.equal(one.pixels, listed.pixels)
    assert torch.equal(one.tokens, listed.tokens)


def test_features_stand_for_images_encoded_before():
    features = torch.rand(2, 4, 16)
    encoded = PROCESSOR.encode([], "compare", "a", features=features)
    from_pixels = PROCESSOR.encode([picture(0.1), picture(0.2)], "compare", "a")
    assert encoded.features is features
    assert encoded.pixels is None
    assert from_pixels.features is None
    for name in ("tokens", "mask_ar", "mask_loss"):
        assert torch.equal(getattr(encoded, name), getattr(from_pixels, name)), name
    with pytest.raises(UsageError, match="found 1 images together with features of 2"):
        PROCESSOR.encode([picture(0.1)], "compare", features=features)
    with pytest.raises(InputError, match="without image"):
        PROCESSOR.encode([], "compare", features=features[:0])
    for wrong in (features[0], features[:, :3], features.long()):
        with pytest.raises(InputError, match=r"expected float\[images, 4, width\]"):
            PROCESSOR.encode([], "compare", features=wrong)
    with pytest.raises(InputError, match="found an example with image features"):
        PROCESSOR.collate([from_pixels, encoded])


@pytest.mark.parametrize("resize", ["bicubic", "bilinear"])
def test_pictures_go_through_the_named_resizer(resize):
    processor = Processor(TOKENIZER, image_size_px=8, num_image_tokens=4, resize=resize)
    assert torch.equal(processor.pixels(photo(1)), to_pixels(photo(1), 8, resize))


def test_a_prompt_without_image_must_be_asked_for():
    with pytest.raises(InputError, match="without image"):
        PROCESSOR.encode([], "caption en")
    encoded = PROCESSOR.encode([], "caption en", text_only=True)
    assert encoded.pixels is None
    assert encoded.tokens.tolist() == [BOS, *TOKENIZER.encode("caption en"), NEWLINE]


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (torch.zeros(3, 9, 8), r"float32\[3, 9, 8\]"),
        (torch.zeros(1, 3, 8, 8), r"float32\[1, 3, 8, 8\]"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), r"uint8\[3, 8, 8\]"),
        (None, "NoneType"),
        (b"photo.jpg", "bytes"),
        ("photo.jpg", "str"),
    ],
)
def test_what_is_no_image_is_refused(image, found):
    with pytest.raises(InputError, match=f"found (an image tensor )?{found}, expected"):
        PROCESSOR.encode(image, "ocr")


# --- lengths ----------------------------------------------------------------------------------------------------------


def test_too_long_is_an_error_that_says_how_long():
    length = len(PROCESSOR.encode([picture(0.0)], "a long prompt", "and answer").tokens)
    PROCESSOR.encode([picture(0.0)], "a long prompt", "and answer", max_tokens=length)
    with pytest.raises(
        InputError, match=rf"take {length} tokens \(4 of them for images\), but at most {length - 1} fit"
    ):
        PROCESSOR.encode([picture(0.0)], "a long prompt", "and answer", max_tokens=length - 1)


def test_a_megabyte_is_refused_unread():
    text = "caption " * 125_000
    start = time.monotonic()
    with pytest.raises(InputError, match=r"take at least [0-9]+ tokens"):
        PROCESSOR.encode([picture(0.0)], text, max_tokens=512)
    assert time.monotonic() - start < 0.1


@given(prefix=st.text(alphabet="cat \n\u732b", max_size=30), suffix=st.none() | st.text(alphabet="cat ", max_size=30))
def test_the_limit_is_exact(prefix, suffix):
    length = len(PROCESSOR.encode([], prefix, suffix, text_only=True).tokens)
    assert len(PROCESSOR.encode([], prefix, suffix, text_only=True, max_tokens=length).tokens) == length
    with pytest.raises(InputError):
        PROCESSOR.encode([], prefix, suffix, text_only=True, max_tokens=length - 1)


@pytest.mark.parametrize("text", [None, 3, b"x", "\ud800"])
@pytest.mark.parametrize("max_tokens", [None, 100])
def test_a_prefix_that_is_no_text_is_refused(text, max_tokens):
    with pytest.raises(InputError):
        PROCESSOR.encode([picture(0.0)], text, max_tokens=max_tokens)


# --- batches ----------------------------------------------------------------------------------------------------------

EXAMPLES = [
    PROCESSOR.encode([picture(0.1), picture(0.2)], "caption en", "a cat"),
    PROCESSOR.encode([], "x", text_only=True),
    PROCESSOR.encode([picture(0.3)], "What color is the large table?", ""),
]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pad_to", [None, 40])
def test_a_batch_holds_every_example_unchanged(side, pad_to):
    batch = PROCESSOR.collate(EXAMPLES, side, pad_to)
    length = pad_to or max(len(example.tokens) for example in EXAMPLES)
    assert batch.tokens.shape == batch.mask_ar.shape == batch.mask_loss.shape == batch.mask_input.shape == (3, length)
    for row, example in enumerate(EXAMPLES):
        valid = batch.mask_input[row]
        for name in ("tokens", "mask_ar", "mask_loss"):
            assert torch.equal(getattr(batch, name)[row, valid], getattr(example, name))
        assert batch.tokens[row, ~valid].unique().tolist() in ([], [TOKENIZER.pad_id])
        assert not batch.mask_loss[row, ~valid].any()
        pads = int((~valid).sum())
        expected = [False] * pads + [True] * (length - pads)
        assert valid.tolist() == (expected if side == "left" else expected[::-1])
    assert batch.pixels[:, 0, 0, 0].tolist() == pytest.approx([0.1, 0.2, 0.3])


def test_padding_on_the_right_is_causal_as_in_big_vision():
    batch = PROCESSOR.collate(EXAMPLES, "right")
    assert batch.mask_ar[~batch.mask_input].unique().tolist() == [1]
    batch = PROCESSOR.collate(EXAMPLES, "left")
    assert batch.mask_ar[~batch.mask_input].unique().tolist() == [0]


def test_a_batch_without_images_has_no_pixels():
    assert PROCESSOR.collate([EXAMPLES[1]]).pixels is None


def test_a_batch_moves_as_a_whole():
    moved = PROCESSOR.collate(EXAMPLES).to("meta")
    assert {tensor.device.type for tensor in vars(moved).values()} == {"meta"}
    assert PROCESSOR.collate([EXAMPLES[1]]).to("meta").pixels is None


def test_wrong_batches_are_refused():
    with pytest.raises(InputError, match=r"an example has [0-9]+ tokens, but 10 were asked for"):
        PROCESSOR.collate(EXAMPLES, pad_to=10)
    with pytest.raises(UsageError, match="found no examples"):
        PROCESSOR.collate([])
    with pytest.raises(UsageError, match="padding side 'middle'"):
        PROCESSOR.collate(EXAMPLES, "middle")
