"""The mask codec against a golden `vae` directory: codes, masks, suffixes, and what answers mean in pixels.

Comes in: `vae-*.npz` (weights of any widths), `expected.npz`, `text_cases.json`, `text_masks.npz`. Goes out: one row
per array, text and mask. Codes, boxes and texts must be equal, decoded masks within 1e-4. A pixel of a pasted mask may
only differ where its value is a hair from the threshold; a soft mask by one grey level. The two ways of pasting are
those of `results.mask`; the demo's own reading of answers is `demo_parser`. An array or key not known is a failing row.
"""

import json
import tempfile
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paligemma.checkpoints.mask_codec import load_codec, save_codec
from paligemma.config import NUM_LOC_TOKENS, NUM_SEG_TOKENS
from paligemma.doctor.demo_parser import DemoObject, extract_objects
from paligemma.doctor.report import Row, compare, equal, failed
from paligemma.results import Box, Mask
from paligemma.results.mask import pixel_box
from paligemma.tasks.grammar import HUGGING_FACE, REFERENCE, box_to_text, decode_bin, encode_coordinate
from paligemma.tasks.masks import crop_region, decoder, squeezed
from paligemma.tasks.segment import Decode, parse_segments, segment_prompt

MASKS, FEATURES, MARGIN, GREY_LEVEL = 1e-4, 1e-4, 1e-3, 1.0
NEAR_THRESHOLD = 1e-3  # a pasted value this close to 0 may fall on either side
ABOUT = {"note", "pillow", "tf", "jax", "seed"}  # of text_cases.json: how it was made


def check(directory: Path) -> list[Row]:
    """The rows of one golden directory."""
    return list(_Golden(directory).rows())


class _Golden:
    def __init__(self, directory: Path):
        self.files = sorted(directory.glob("vae-*.npz"))
        self.codec = load_codec(self.files[0])
        self.decode: Decode = decoder(self.codec)
        self.arrays = dict(np.load(directory / "expected.npz", allow_pickle=False))
        self.masks = dict(np.load(directory / "text_masks.npz", allow_pickle=False))
        self.cases: dict[str, Any] = json.loads((directory / "text_cases.json").read_bytes())
        shapes = directory / "shapes.json"
        self.shapes: dict[str, list[int]] | None = json.loads(shapes.read_bytes()) if shapes.exists() else None
        self.used: set[str] = set()

    def rows(self) -> Iterator[Row]:
        for path in self.files:
            yield from self.file_rows(path)
        with torch.inference_mode():
            yield from self.array_rows()
            yield from self.text_rows()
        for name in self.masks:
            if name not in self.used:
                yield failed(name, "no case of text_cases.json names this mask; update the self-test")

    def file_rows(self, path: Path) -> Iterator[Row]:
        """What is loaded and saved is the file, array for array."""
        with np.load(path, allow_pickle=False) as stored:
            before = {name: stored[name] for name in stored.files if not name.startswith("_vq_vae._ema_")}
        dtypes = {str(array.dtype) for array in before.values()}
        with tempfile.TemporaryDirectory() as folder:
            saved = save_codec(load_codec(path), Path(folder) / path.name, "float16" if dtypes == {"float16"} else None)
            after = dict(np.load(saved, allow_pickle=False))
        unequal = [name for name in before if name not in after or not np.array_equal(before[name], after[name])]
        yield Row(f"{path.name}: arrays", float(len(unequal) + len(after.keys() - before.keys())), 0.0)
        if self.shapes is not None:
            found = {name: list(array.shape) for name, array in before.items()}
            names = found.keys() | self.shapes.keys()
            yield Row(f"{path.name}: shapes.json", float(sum(found.get(n) != self.shapes.get(n) for n in names)), 0.0)

    # --- expected.npz -----------------------------------------------------------------------------------------------

    def array_rows(self) -> Iterator[Row]:
        for name, expected in self.arrays.items():
            if name in _ARRAYS:
                yield _ARRAYS[name](self, name, expected)
            elif name != "mask2str.masks":  # with its texts
                yield failed(name, "this array is not known here; update the self-test")

    def encoder_masks(self) -> Tensor:
        return torch.from_numpy(self.arrays["enc.masks"][..., 0])

    def inputs_row(self, name: str, expected: np.ndarray) -> Row:
        """A crop that already has the codec's size is not changed by resizing."""
        return compare(name, torch.stack([squeezed(mask[..., 0]) for mask in expected]), expected[..., 0], 1e-6)

    def codes_row(self, name: str, expected: np.ndarray) -> Row:
        return equal(name, self.codec.encode(self.encoder_masks()), expected)

    def features_row(self, name: str, expected: np.ndarray) -> Row:
        ours = self.codec.features(self.encoder_masks()[:1])[0]
        return compare(name, ours.reshape(expected.shape), expected, FEATURES)

    def margin_row(self, name: str, expected: np.ndarray) -> Row:
        nearest = self.codec.distances(self.codec.features(self.encoder_masks())).double().topk(2, largest=False).values
        return compare(name, (nearest[..., 1] - nearest[..., 0]).min(), expected, MARGIN, relative=True)

    def written_codes_row(self, name: str, expected: np.ndarray) -> Row:
        """Codes written as tokens are read as the same codes."""
        texts = [box_to_text((0.0, 0.0, 1.0, 1.0)) + _code_text(codes) for codes in expected]
        boxes = [box for text in texts for box in parse_segments(text, (64, 64)).boxes or ()]
        return equal(name, [box.mask_codes for box in boxes], expected)

    def decoded_row(self, name: str, expected: np.ndarray) -> Row:
        return compare(
            name, self.decode([tuple(codes) for codes in self.arrays["dec.codes"].tolist()]), expected, MASKS
        )

    # --- text_cases.json --------------------------------------------------------------------------------------------

    def text_rows(self) -> Iterator[Row]:
        for key, cases in self.cases.items():
            if key == "box":
                yield from _box_rows(cases)
            elif key == "mask2str":
                for i, case in enumerate(cases):
                    yield from self.suffix_rows(f"mask2str/{i:02d}", case, self.arrays["mask2str.masks"][i])
            elif key == "evaluator_objects":
                self.used |= {"evaluator_masks", "evaluator_masks_shape"}
                width = int(self.masks["evaluator_masks_shape"][-1])
                masks = np.unpackbits(self.masks["evaluator_masks"], axis=-1)[..., :width].astype(bool)
                for i, case in enumerate(cases):
                    yield from self.evaluator_rows(f"evaluator_objects/{i:02d}", case, masks[i])
            elif key == "demo_parser":
                for i, case in enumerate(cases):
                    yield from self.demo_rows(f"demo_parser/{i:02d}", case)
            elif key not in ABOUT | {"image_hw"}:
                yield failed(f"text_cases.json: {key}", "this key is not known here; update the self-test")

    def suffix_rows(self, name: str, case: dict[str, Any], mask: np.ndarray) -> Iterator[Row]:
        """RefCOCO's prompt and training suffix of one mask."""
        yield from _unknown(name, case, {"bbox_yxyx", "prefix", "suffix"})
        corners = tuple(case["bbox_yxyx"])
        y1, x1, y2, x2 = crop_region(corners, (mask.shape[1], mask.shape[0]))
        codes = self.codec.encode(squeezed(mask[y1:y2, x1:x2] / np.float32(255))[None])[0]
        yield _text(f"{name} suffix", box_to_text(corners) + _code_text(codes.tolist()), case["suffix"])
        yield _text(f"{name} prefix", segment_prompt(case["prefix"], bare=True).text, case["prefix"])

    def evaluator_rows(self, name: str, case: dict[str, Any], expected: np.ndarray) -> Iterator[Row]:
        known = {"text", "loc", "seg", "valid_tokens", "pixel_box_yxyx", "counted_invalid", "mask_area"}
        yield from _unknown(name, case, known)
        height, width = self.cases["image_hw"]
        boxes = parse_segments(case["text"], (width, height), decode=self.decode).boxes or ()
        yield equal(f"{name} valid_tokens", len(boxes) == 1, case["valid_tokens"])
        y1, x1, y2, x2 = (decode_bin(location, REFERENCE) for location in case["loc"])
        left, top, right, bottom = pixel_box((y1, x1, y2, x2), (width, height))
        yield equal(f"{name} pixel_box_yxyx", [top, left, bottom, right], case["pixel_box_yxyx"])
        ours, near = np.zeros((height, width), dtype=bool), np.zeros((height, width), dtype=bool)
        for box in boxes:
            assert box.mask is not None
            yield equal(f"{name} loc", box.loc, case["loc"])
            yield equal(f"{name} seg", box.mask_codes, case["seg"])
            ours = box.mask.array()
            values, (x, y) = box.mask.crop()
            near[y : y + values.shape[0], x : x + values.shape[1]] = np.abs(values) < NEAR_THRESHOLD
        invalid = not boxes or right <= left or bottom <= top
        yield equal(f"{name} counted_invalid", invalid, case["counted_invalid"])
        yield equal(f"{name} mask", ours, expected, where=~near)
        yield Row(f"{name} mask_area", float(abs(int(ours.sum()) - case["mask_area"])), float(near.sum()))

    def demo_rows(self, name: str, case: dict[str, Any]) -> Iterator[Row]:
        yield from _unknown(name, case, {"text", "width", "height", "unique_labels", "objs"})
        width, height = case["width"], case["height"]
        found = extract_objects(case["text"], unique_labels=case["unique_labels"])
        ours = [_demo_dict(thing, width, height) for thing in found]
        expected = [{key: value for key, value in thing.items() if key != "mask_key"} for thing in case["objs"]]
        unequal = sum(a != b for a, b in zip_longest(ours, expected))
        yield Row(f"{name} objs", float(unequal), 0.0)
        yield _our_reading(f"{name} read by tasks.segment", case, found)
        for thing, golden in zip(found, case["objs"], strict=False):
            if key := golden.get("mask_key"):
                self.used.add(key)
                levels = np.rint(self.demo_mask(thing, width, height) * 255)
                yield compare(f"{name} {key}", levels, self.masks[key], GREY_LEVEL)

    def demo_mask(self, thing: DemoObject, width: int, height: int) -> np.ndarray:
        """float32[H, W] in 0..1, empty for a box without area."""
        assert thing.loc is not None
        y1, x1, y2, x2 = (decode_bin(location, HUGGING_FACE) for location in thing.loc)
        if thing.codes is None or y2 <= y1 or x2 <= x1:
            return np.zeros((height, width), dtype=np.float32)
        last = self.codec.config.num_codes - 1  # JAX takes the last row for an index behind it
        values = self.decode([tuple(min(code, last) for code in thing.codes)])[0]
        pasted = Mask(
            values=values, box_yxyx_norm=(y1, x1, y2, x2), image_size_px=(width, height), convention="demo"
        )  # fmt: skip
        return pasted.soft()


_ARRAYS = {
    "enc.masks": _Golden.inputs_row,
    "enc.codes": _Golden.codes_row,
    "enc.features_first": _Golden.features_row,
    "enc.min_distance_margin": _Golden.margin_row,
    "dec.codes": _Golden.written_codes_row,
    "dec.masks64": _Golden.decoded_row,
}


def _box_rows(case: dict[str, Any]) -> Iterator[Row]:
    yield from _unknown("box", case, {"note", "values", "bins", "back"})
    bins = [encode_coordinate(value) for value in case["values"]]
    yield equal("box/bins", bins, case["bins"])
    yield compare("box/back", [decode_bin(location) for location in bins], case["back"], 1e-12)


def _unknown(name: str, case: dict[str, Any], known: set[str]) -> list[Row]:
    """A failing row where a case says something this test does not compare."""
    extra = sorted(case.keys() - known)
    return [failed(f"{name} keys", f"{', '.join(extra)}: not known here; update the self-test")] if extra else []


def _text(name: str, ours: str, expected: str) -> Row:
    return Row(name, float(sum(a != b for a, b in zip_longest(ours, expected))), 0.0)


def _code_text(codes: Sequence[int]) -> str:
    return "".join(f"<seg{code:03d}>" for code in codes)


def _demo_dict(thing: DemoObject, width: int, height: int) -> dict[str, Any]:
    if thing.loc is None:
        return {"content": thing.content}
    return {
        "content": thing.content,
        "xyxy": list(thing.xyxy(width, height)),
        "name": thing.name,
        "has_mask": thing.codes is not None,
    }


def _our_reading(name: str, case: dict[str, Any], found: list[DemoObject]) -> Row:
    """Whatever the demo finds that is a box in the picture, our parser finds as well, in order; it may find more.

    The label begins as the demo's, without outer spaces and apostrophes for repetition: the demo cuts at `<` and `>`.
    """
    boxes = iter(parse_segments(case["text"], (case["width"], case["height"]), divisor=HUGGING_FACE).boxes or ())
    proper = [thing for thing in found if thing.loc is not None and _is_proper(thing.loc, thing.codes or ())]
    missed = [thing.content for thing in proper if not any(_same(box, thing) for box in boxes)]
    return Row(name, float(len(missed)), 0.0, f"missed {missed[0]!r}" if missed else "")


def _is_proper(loc: tuple[int, ...], codes: tuple[int, ...]) -> bool:
    """A box with area, of tokens that exist."""
    y1, x1, y2, x2 = loc
    return y1 < y2 < NUM_LOC_TOKENS and x1 < x2 < NUM_LOC_TOKENS and all(code < NUM_SEG_TOKENS for code in codes)


def _same(box: Box, thing: DemoObject) -> bool:
    label = (thing.name or "").rstrip("'").strip()
    return (box.loc, box.mask_codes) == (thing.loc, thing.codes) and box.label.startswith(label)
