"""`paligemma data ...`: the data people have <-> training rows."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cyclopts import App

from paligemma.errors import InputError, UnavailableError
from paligemma.interfaces.cli import console
from paligemma.interfaces.cli.options import Flag, Json

if TYPE_CHECKING:
    from paligemma.data.convert import Rows
    from paligemma.data.formats import Reading
    from paligemma.model.mask_codec import MaskCodec

app = App(name="data", help="Bring labelled data in, check it, and take it out again.")

Format = Literal["auto", "jsonl", "boxes", "coco", "yolo", "voc", "labelstudio", "masks", "csv"]
Split = Literal["train", "valid", "test"]


@app.command(name="import")
def import_data(
    format: Format,
    path: Path,
    /,
    *,
    out: Path,
    images: Path | None = None,
    task: Literal["detect", "segment"] = "detect",
    one_prompt_per: Literal["image", "label"] = "image",
    ask: Literal["present", "all"] = "present",
    order: Literal["file", "area", "left", "random"] = "file",
    seed: int = 0,
    codec: str = "nano",
    split: Split | None = None,
    label: str | None = None,
    prefix: str | None = None,
    copy: Flag = False,
    skip_bad: Flag = False,
    allow_outside: Flag = False,
    json: Json = False,
) -> int:
    """Turn labelled data into training rows: train.jsonl, valid.jsonl, test.jsonl of {image, prefix, suffix}.

    Args:
        format: of the data; auto recognises it.
        path: file or folder of the data; splits are found by the names of files and folders.
        out: folder for the rows. Pictures that lie elsewhere are linked into its images/.
        images: folder of the pictures, where they do not lie beside the labels.
        task: detect writes boxes, segment boxes and masks.
        one_prompt_per: ask for all objects of a picture at once (image), or for one label at a time (label).
        ask: for the labels that are there; all asks for every label of the data, where nothing is there as well.
        order: of the objects in an answer.
        seed: of --order random.
        codec: what makes codes of masks: that of a model, an .npz file, or vae-oid (Google's, once pulled).
        split: read only this one; data without splits becomes this one.
        label: of all objects, for masks without names.
        prefix: the prompt of captions; by default "caption en".
        copy: copy pictures instead of linking them.
        skip_bad: leave bad entries out and list them in rejects.jsonl, instead of stopping.
        allow_outside: pictures may lie outside the data's folder.
        json: one JSON object on stdout and nothing else.
    """
    from paligemma.data.convert import Rules, to_rows
    from paligemma.data.formats import read, write

    entries, reading = read(
        path, None if format == "auto" else format, images=images, allow_outside=allow_outside, split=split,
        label=label, prefix=prefix,
    )  # fmt: skip
    rules = Rules(task=task, one_prompt_per=one_prompt_per, ask=ask, order=order, seed=seed)
    rows = to_rows(entries, reading, rules, _codec(codec) if task == "segment" else None)
    _check(path, rows, reading, skip_bad)
    writing = write(rows.entries, "jsonl", out, copy=copy)
    _told(rows, reading, writing.written, writing.folder, json)
    return 0


@app.command(name="export")
def export_data(
    format: Literal["jsonl", "boxes", "coco", "yolo", "voc", "labelstudio", "masks", "csv"],
    path: Path,
    /,
    *,
    out: Path,
    images: Path | None = None,
    codec: str = "nano",
    classes: str | None = None,
    split: Split | None = None,
    copy: Flag = False,
    skip_bad: Flag = False,
    allow_outside: Flag = False,
    json: Json = False,
) -> int:
    """Turn training rows back into a format of labelled pictures, or one such format into another.

    Args:
        format: to write.
        path: train.jsonl, a folder of such files, or data in any format that `data import` reads.
        out: folder; for one split of jsonl, boxes, coco, labelstudio and csv also a file.
        images: folder of the pictures, where they do not lie beside the rows.
        codec: what made the codes of the masks: that of a model, an .npz file, or vae-oid (Google's, once pulled).
        classes: names in the order of their numbers, with ; between; others follow as they appear.
        split: only this one; data without splits becomes this one.
        copy: copy pictures instead of linking them.
        skip_bad: leave bad entries out and list them in rejects.jsonl, instead of stopping.
        allow_outside: pictures may lie outside the data's folder.
        json: one JSON object on stdout and nothing else.
    """
    from paligemma.data.convert import Rows, from_rows
    from paligemma.data.formats import FORMATS, read, write

    entries, reading = read(path, images=images, allow_outside=allow_outside, split=split)
    if FORMATS[format].rows:
        rows = Rows(entries=entries)
    else:
        coded = any("<seg" in getattr(entry.item, "suffix", "") for entry in entries)
        rows = from_rows(entries, reading, _codec(codec) if coded else None)
    _check(path, rows, reading, skip_bad)
    named = [name.strip() for name in (classes or "").split(";") if name.strip()] or reading.classes
    writing = write(rows.entries, format, out, copy=copy, classes=named)
    _told(rows, reading, writing.written, writing.folder, json)
    return 0


def _codec(name: str) -> "MaskCodec":
    """A mask codec by the name of a model that has one, or by its file.

    Raises:
        UnavailableError: none of that name here. CheckpointError: no codec.
    """
    from paligemma.checkpoints import find_codec, hub, load_codec, resolve

    file: Path | None = Path(name)
    if Path(name).suffix != ".npz":
        file = hub.pulled_codec() if name == hub.CODEC else find_codec(resolve(name))
    if file is None:
        raise UnavailableError(f"no mask codec lies beside {name}; `paligemma pull {hub.CODEC}` fetches Google's")
    return load_codec(file)


def _check(path: Path, rows: "Rows", reading: "Reading", skip_bad: bool) -> None:
    """
    Raises:
        InputError: there are bad entries and they are not to be skipped, or nothing is left.
    """
    if reading.problems and not skip_bad:
        reading.stop_if_bad()
    if not rows.entries:
        why = ", ".join(f"{count} {what}" for what, count in rows.left_out.items() if count) or "no usable entry"
        bad = f", {len(reading.problems)} bad entries" if reading.problems else ""
        raise InputError(f"nothing of {path} is left to write ({why}{bad}); check the data, or another --task or --ask")


def _told(rows: "Rows", reading: "Reading", files: Sequence[Path], folder: Path, as_json: bool) -> None:
    """Writes the list of rejects and says what was done."""
    from paligemma.data.formats.reading import REJECTS
    from paligemma.data.formats.writing import UNSPLIT, by_split, write_rejects

    files = [*files, *([write_rejects(reading.problems, folder / REJECTS)] if reading.problems else [])]
    splits = {split or UNSPLIT: len(entries) for split, entries in by_split(rows.entries).items()}
    left_out = {what: count for what, count in (rows.left_out + reading.ignored).items() if count}
    report: dict[str, Any] = {
        "splits": splits, "objects": rows.objects, "classes": reading.classes, "masks": rows.mask_figures(),
        "cut_boxes": reading.cut, "left_out": left_out, "rejected": len(reading.problems),
        "files": [str(file) for file in files],
    }  # fmt: skip
    if as_json:
        console.print_json(report)
        return
    told = ", ".join(f"{count:,} {split}" for split, count in splits.items())
    console.say(f"{told}; {rows.objects:,} objects" if rows.objects else told)
    if figures := report["masks"]:
        console.say(
            f"{figures['masks']:,} masks, IoU with what their codes decode to: mean {figures['mean']:.3f}, "
            f"worst {figures['worst']:.3f}, {figures['below_half']:,} below 0.5"
        )
    if reading.cut:
        console.say(f"{reading.cut:,} boxes reached out of their pictures by a hair and were cut")
    for what, count in left_out.items():
        console.say(f"left out: {count:,} {what}")
    if reading.problems:
        console.say(f"rejected: {len(reading.problems):,}, see {folder / REJECTS}")
    console.say("\n".join(str(file) for file in files))
