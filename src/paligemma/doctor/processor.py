"""Tokenisation against a golden `processor` directory: every case computed anew.

Comes in: `cases.json` (Hugging Face's processor, one entry per `tok-NAME` directory) and, where present,
`bv_tokens.json` with `tokenizer.model` (big_vision). Goes out: one row per stored list or text, whose difference is the
number of unequal places; a difference in length counts.
"""

import json
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from typing import Any

from paligemma.doctor.hf_prompts import HFProcessor
from paligemma.doctor.report import Row, failed
from paligemma.errors import CheckpointError, PaliGemmaError
from paligemma.processor import Processor
from paligemma.tokenizer import CLASSES, LOCATIONS, SYMBOLS, Tokenizer

BIG_VISION = frozenset({LOCATIONS, SYMBOLS})  # what SentencePiece takes from a text
HF_LISTS = ("input_ids", "token_type_ids", "attention_mask", "labels")


def check(directory: Path) -> list[Row]:
    """The rows of one golden directory.

    Raises:
        PaliGemmaError: `cases.json` or a tokenizer cannot be read.
    """
    rows: list[Row] = []
    for name, golden in _read(directory / "cases.json").items():
        tokenizer = Tokenizer.load(directory / f"tok-{name}")
        rows += _meta_rows(name, golden["meta"], tokenizer)
        processor = HFProcessor(tokenizer, num_image_tokens=golden["meta"]["image_seq_length"])
        for i, case in enumerate(golden["cases"]):
            rows += _guarded(f"{name}/{i:02d} {case['kind']}", case, processor, _hf_rows)
    if (directory / "bv_tokens.json").exists():
        golden = _read(directory / "bv_tokens.json")
        tokenizer = Tokenizer.load(directory / "tokenizer.model")
        rows += _meta_rows("big_vision", golden["meta"], tokenizer)
        processor_bv = Processor(tokenizer, image_size_px=14, num_image_tokens=1)
        for kind in ("prompts", "suffixes"):
            for i, case in enumerate(golden[kind]):
                rows += _guarded(f"big_vision/{i:02d} {kind}", case, processor_bv, _bv_rows)
    return rows


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}); copy the golden directory again") from error


def _guarded(name: str, case: dict[str, Any], processor: Any, rows_of: Callable[..., list[Row]]) -> list[Row]:
    """The rows of one case, or one row that says why it could not be computed."""
    try:
        return rows_of(name, case, processor)
    except PaliGemmaError as error:
        return [failed(name, str(error))]


def _meta_rows(name: str, meta: dict[str, Any], tokenizer: Tokenizer) -> list[Row]:
    ours = {
        "image_token_id": tokenizer.image_id,
        "vocab_size": tokenizer.vocab_size,
        "loc0": tokenizer.loc_start,
        "seg0": tokenizer.seg_start,
        "bos": tokenizer.bos_id,
        "eos": tokenizer.eos_id,
        "pad": tokenizer.pad_id,
        "sep": tokenizer.newline_id,
    }
    expected = {key: value[0] if isinstance(value, list) else value for key, value in meta.items()}
    return [_row(f"{name}/meta {key}", [ours[key]], [expected[key]]) for key in ours if key in expected]


def _hf_rows(name: str, case: dict[str, Any], processor: HFProcessor) -> list[Row]:
    keys = ("padding", "padding_side", "max_length")
    options = {key: case[key] for key in keys if key in case}
    if case["kind"].startswith("truncation"):
        options["truncation"] = True
    counts = case.get("n_images", 1)
    try:
        got = processor.encode(case["text"], case.get("suffix"), num_images=counts, **options)
    except PaliGemmaError as error:
        if "error" not in case:
            raise
        return [Row(f"{name}: error", 0.0, 0.0, str(error))]
    if "error" in case:
        return [failed(f"{name}: error", f"no error, but the reference says {case['error']}")]
    rows = [_row(f"{name}: {key}", got.get(key), case.get(key)) for key in HF_LISTS if key in case or key in got]
    if case["text"] is None and not rows:
        rows = [_row(f"{name}: no rows", list(got), [])]
    tokenizer = processor.tokenizer
    if "decoded" in case:
        rows.append(_row(f"{name}: decoded", processor.decode(case["input_ids"][0]), case["decoded"]))
    if "decoded_skip_special" in case:
        text = processor.decode(case["input_ids"][0], skip_special_tokens=True)
        rows.append(_row(f"{name}: decoded_skip_special", text, case["decoded_skip_special"]))
    if "plain_tokenizer_ids" in case:
        ids = tokenizer.encode(case["text"], allow=CLASSES)
        rows.append(_row(f"{name}: plain_tokenizer_ids", ids, case["plain_tokenizer_ids"]))
    return rows


def _bv_rows(name: str, case: dict[str, Any], processor: Processor) -> list[Row]:
    prefix = case["prefix" if "prefix" in case else "text"]
    encoded = processor.encode([], prefix, case.get("suffix"), allow=BIG_VISION, text_only=True)
    in_suffix = encoded.mask_loss.bool()
    prefix_ids, suffix_ids = encoded.tokens[~in_suffix].tolist(), encoded.tokens[in_suffix].tolist()
    decode = processor.tokenizer.decode
    rows = [_row(f"{name}: prefix_ids", prefix_ids, case["prefix_ids"])]
    for key in ("decoded", "decoded_stop_at_eos"):
        if key in case:
            rows.append(_row(f"{name}: {key}", decode(case["prefix_ids"]), case[key]))
    if "suffix_ids" in case:
        rows.append(_row(f"{name}: suffix_ids", suffix_ids, case["suffix_ids"]))
        rows.append(_row(f"{name}: decoded_suffix", decode(case["suffix_ids"]), case["decoded_suffix"]))
    return rows


def _row(name: str, ours: Any, expected: Any) -> Row:
    return Row(name, float(_unequal(ours, expected)), 0.0)


def _unequal(ours: Any, expected: Any) -> int:
    """Unequal places of two nested lists or two texts; a missing place is unequal."""
    if isinstance(ours, list) and isinstance(expected, list):
        return sum(_unequal(a, b) for a, b in zip_longest(ours, expected))
    if isinstance(ours, str) and isinstance(expected, str):
        return sum(a != b for a, b in zip_longest(ours, expected))
    return int(ours != expected)
