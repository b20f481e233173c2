"""`paligemma data check|show|shards`: training data looked at before training, and written as shards.

What is wrong with a row is found by `paligemma.data.check`; here it is only told. No model runs: a model's name stands
for its tokenizer, its picture side and its mask codec.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paligemma.errors import EXIT_NO_INPUT, InputError, UsageError
from paligemma.interfaces.cli import console
from paligemma.interfaces.cli.options import Flag, Json, at_least
from paligemma.interfaces.cli.progress import Bar, several_on_a_terminal

if TYPE_CHECKING:
    from paligemma.config import Variant
    from paligemma.data.example import Example, Source
    from paligemma.model.mask_codec import MaskCodec
    from paligemma.processor import Processor


def check(
    path: str,
    /,
    *,
    held_out: str | None = None,
    split: str = "train",
    prefix: str | None = None,
    model: str = "nano",
    max_tokens: int | None = None,
    limit: int | None = None,
    rejects: Path | None = None,
    skip_bad: Flag = False,
    json: Json = False,
) -> int:
    """Look at every row of training data, and tell all that is broken, repeated, too long or odd.

    Errors are rows that must not be trained on (then the exit code is 4); warnings are for you to look at. Nothing is
    changed.

    Args:
        path: rows.jsonl, a table, labelled data, shards-{000..010}.tar, hub:NAME, digits or scenes; a folder of those.
        held_out: validation data, named the same way, that must share no picture with it; of splits, the validation.
        split: which one, where the data has several: train, validation, test.
        prefix: prompt of rows that have none.
        model: the one to be trained; gives the tokenizer, the side of pictures and the prompts it knows.
        max_tokens: text tokens a row may have: prompt and answer with what is put around them; default 128, of scenes
            256.
        limit: look only at so many rows, drawn evenly.
        rejects: file for one line of JSON per bad row.
        skip_bad: list the rows that training with skip_bad leaves out, and end with 0 if any others are left.
        json: one JSON object on stdout and nothing else.
    """
    from paligemma.data.check import check as look
    from paligemma.data.sources import usual_text_tokens

    at_least("--max-tokens", max_tokens, 3)
    at_least("--limit", limit, 1)
    reader = _Reader(model)
    source = reader.open(path, split, prefix)
    other = None if held_out is None else reader.open(held_out, "validation", prefix)
    with Bar(_rows(source, limit), several_on_a_terminal(True, json)) as bar:
        found = look(
            source, reader.processor, max_tokens=max_tokens or usual_text_tokens([source]), limit=limit,
            variant=reader.variant, held_out=other, watch=lambda _: bar.step(),
        )  # fmt: skip
    if rejects is not None:
        found.write_rejects(rejects)
    left_out = [finding.row for finding in found.bad.values()]
    if json:
        console.print_json({**found.to_dict(), **({"left_out": left_out} if skip_bad else {})})
    else:
        console.say(found.to_text())
        if skip_bad and left_out:
            console.say("\nleft out:\n" + "\n".join(f"  {row}" for row in left_out))
    usable = found.rows > len(found.bad)
    return 0 if not found.errors or (skip_bad and usable) else EXIT_NO_INPUT


def show(
    path: str,
    /,
    *,
    rows: int = 10,
    start: int = 0,
    split: str = "train",
    prefix: str | None = None,
    model: str = "nano",
    json: Json = False,
) -> int:
    """Print rows of training data as the trainer reads them: pictures, prompt, answer and their tokens.

    Args:
        path: rows.jsonl, a table, labelled data, shards-{000..010}.tar, hub:NAME, digits or scenes; a folder of those.
        rows: how many.
        start: number of the first one, from 0.
        split: which one, where the data has several: train, validation, test.
        prefix: prompt of rows that have none.
        model: gives the tokenizer and the side of drawn pictures.
        json: one JSON object on stdout and nothing else.
    """
    at_least("--rows", rows, 1)
    at_least("--start", start, 0)
    reader = _Reader(model)
    source = reader.open(path, split, prefix)
    if start >= len(source):
        raise UsageError(f"--start {start} lies behind the end: {source.name} has {len(source):,} rows; start earlier")
    shown = []
    for index in range(start, min(start + rows, len(source))):
        try:
            shown.append(_row(source[index], reader.processor))
        except InputError as error:
            shown.append({"error": str(error)})
    if json:
        console.print_json({"source": source.name, "fingerprint": source.fingerprint, "rows": shown})
        return 0
    for row in shown:
        console.say(f"error: {row['error']}" if "error" in row else _line(row))
    return 0


def shards(
    paths: list[str],
    /,
    *,
    out: Path,
    per_shard: int = 1000,
    count: int | None = None,
    weights: str | None = None,
    seed: int = 0,
    split: str = "train",
    prefix: str | None = None,
    model: str = "nano",
    json: Json = False,
) -> int:
    """Write training data, one source or a mixture, as webdataset shards in a shuffled order.

    Args:
        paths: rows.jsonl, a table, labelled data, shards, hub:NAME, digits or scenes; several are mixed.
        out: folder for shard-000000.tar and so on.
        per_shard: examples in a shard.
        count: examples in all; by default until each was there once. Needed for endless sources.
        weights: of the sources, such as 3,1; by default all the same.
        seed: of the order.
        split: which one, where the data has several: train, validation, test.
        prefix: prompt of rows that have none.
        model: gives the side of drawn pictures and the codes of their masks.
        json: one JSON object on stdout and nothing else.
    """
    from paligemma.data.mixture import Mixture
    from paligemma.data.shards import write_shards

    at_least("--per-shard", per_shard, 1)
    at_least("--count", count, 1)
    reader = _Reader(model)
    sources = [reader.open(path, split, prefix) for path in paths]
    mixture = Mixture(list(zip(sources, _weights(weights, len(sources)), strict=True)), seed=seed)
    total = count or mixture.epoch_length
    if total is None:
        raise UsageError("the data never end, so --count must say how many examples to write")
    with Bar(total, several_on_a_terminal(True, json)) as bar:

        def example(position: int) -> "Example":
            bar.step()
            return mixture[position]

        files = write_shards(example, total, out, per_shard=per_shard)
    if json:
        console.print_json({"examples": total, "sources": mixture.facts(), "files": [str(file) for file in files]})
    else:
        console.say(
            f"{total:,} examples in {len(files):,} shards: {files[0]}" + (f" to {files[-1]}" if files[1:] else "")
        )
    return 0


def _weights(given: str | None, count: int) -> list[float]:
    if given is None:
        return [1.0] * count
    try:
        weights = [float(word) for word in given.split(",")]
    except ValueError:
        weights = []
    if len(weights) != count:
        raise UsageError(f"--weights {given} does not fit {count} sources; give one number for each, such as 3,1")
    return weights


def _rows(source: "Source", limit: int | None) -> int:
    from paligemma.data.check import ENDLESS_ROWS
    from paligemma.data.example import ENDLESS

    return min(len(source), limit or (ENDLESS_ROWS if len(source) >= ENDLESS else ENDLESS))


def _row(example: "Example", processor: "Processor") -> dict[str, Any]:
    """One example as plain data.

    Raises:
        InputError: a picture or text that cannot be read.
    """
    from paligemma.images import open_image

    prompt = processor.prompt_ids(example.prefix, allow=example.allow)
    answer = processor.tokenizer.encode(example.suffix, allow=example.allow)
    return {
        "id": example.id, "sizes_px": [list(open_image(picture).size) for picture in example.images],
        "prefix": example.prefix, "suffix": example.suffix, "tokens": len(prompt) + len(answer) + 1,
    }  # fmt: skip


def _line(row: dict[str, Any]) -> str:
    pictures = ", ".join(f"{width} x {height}" for width, height in row["sizes_px"])
    return f"{row['id']}  {pictures} px, {row['tokens']} tokens\n  {row['prefix']!r}\n  {row['suffix']!r}"


@dataclass(frozen=True)
class _Reader:
    """What a model's files say about reading data; its weights stay where they are."""

    model: str

    @cached_property
    def _path(self) -> Path:
        from paligemma.checkpoints import resolve

        return resolve(self.model)

    @cached_property
    def _opened(self) -> Any:
        from paligemma.checkpoints.load import open_checkpoint

        return open_checkpoint(self._path)

    @cached_property
    def processor(self) -> "Processor":
        from paligemma.processor import Processor
        from paligemma.tokenizer import Tokenizer

        vision = self._opened.config.vision
        tokenizer = Tokenizer.load(self._opened.tokenizer_path or self._path)
        return Processor(
            tokenizer, image_size_px=vision.image_size_px, num_image_tokens=vision.num_image_tokens
        )  # fmt: skip

    @property
    def variant(self) -> "Variant | None":
        from paligemma.config import find_variant

        return find_variant(self._opened.name or "")

    @cached_property
    def _codec(self) -> "MaskCodec | None":
        from paligemma.checkpoints import find_codec, load_codec

        file = find_codec(self._path)
        return None if file is None else load_codec(file)

    def open(self, path: str, split: str, prefix: str | None) -> "Source":
        """The source a path or name stands for, with pictures and masks for this model."""
        from paligemma.data.sources import open_source

        side = self._opened.config.vision.image_size_px
        return open_source(path, split=split, prefix=prefix, image_size_px=side, codec=self._codec)
