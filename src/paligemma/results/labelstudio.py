"""Label Studio's tasks with predictions: rectangles in percent, masks as brush strokes or polygons.

`labelling_config` gives the XML of the project they fit into. Brush masks are the RGBA picture, flattened, in the run
lengths of thi.ng's `rle-pack`: a head (32 bits number of values, 5 bits word size - 1, four times 4 bits run size - 1),
then for each run a 1, 2 bits naming a run size, the length - 1 in that many bits, the value. Sources: Label Studio's
documentation of predictions and of `BrushLabels`; `rle-pack`.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from xml.sax.saxutils import quoteattr

import numpy as np

from paligemma.errors import UsageError
from paligemma.results.boxes import Box
from paligemma.results.files import picture_path, writing
from paligemma.results.labels import UNNAMED
from paligemma.results.mask import Mask

if TYPE_CHECKING:
    from paligemma.results.detections import Detections

Masks = Literal["brush", "polygon", "none"]
BOXES, BRUSH, POLYGON, PICTURE = "box", "brush", "polygon", "image"  # names of the tags in `labelling_config`
_RUN_BITS = (3, 4, 8, 16)


def brush_runs(mask: Mask) -> list[int]:
    """The bytes 0..255 of a mask as Label Studio's brush keeps it: 0 or 255 in all four channels of each pixel."""
    flat = mask.array().ravel()
    changes = np.flatnonzero(np.diff(flat)) + 1
    starts = np.concatenate([[0], changes])
    lengths = np.diff(np.concatenate([starts, [flat.size]])) * 4
    bits = [f"{flat.size * 4:032b}", f"{8 - 1:05b}", *(f"{size - 1:04b}" for size in _RUN_BITS)]
    for length, on in zip(lengths.tolist(), flat[starts].tolist(), strict=True):
        value = "11111111" if on else "00000000"
        while length:
            run = min(length, 1 << _RUN_BITS[-1])
            which = next(i for i, size in enumerate(_RUN_BITS) if run <= 1 << size)
            bits.append(f"1{which:02b}{run - 1:0{_RUN_BITS[which]}b}{value}")
            length -= run
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))


def _regions(box: Box, masks: Masks) -> list[tuple[str, str, dict[str, Any]]]:
    """(tag, type, value) of one object: its mask if there is one and it is wanted, else its rectangle."""
    label = [box.label or UNNAMED]
    if masks not in ("brush", "polygon", "none"):
        raise UsageError(f"unknown kind of masks {masks!r}; give 'brush', 'polygon' or 'none'")
    if masks != "none" and box.mask is not None and box.mask.area_px:
        if masks == "brush":
            value = {"format": "rle", "rle": brush_runs(box.mask), "brushlabels": label}
            return [(BRUSH, "brushlabels", value)]
        rings = [100 * ring / box.image_size_px for ring in box.mask.polygons()]
        return [
            (POLYGON, "polygonlabels", {"points": np.round(ring, 4).tolist(), "closed": True, "polygonlabels": label})
            for ring in rings
        ]
    x1, y1, x2, y2 = (round(100 * edge, 4) for edge in box.xyxyn)
    place = {"x": x1, "y": y1, "width": round(x2 - x1, 4), "height": round(y2 - y1, 4), "rotation": 0}
    return [(BOXES, "rectanglelabels", {**place, "rectanglelabels": label})]


def to_labelstudio(
    found: "Detections", *, number: int = 1, masks: Masks = "brush", url_prefix: str = "", model: str | None = None
) -> dict[str, Any]:
    """One task with one prediction.

    Args:
        number: of the picture, for those that came from no file.
        masks: objects with a mask as brush stroke, as polygons (one for each part), or as rectangles like the others.
        url_prefix: put before the picture's path, such as "https://example.org/pictures/".
        model: `model_version` of the prediction; by default the answer's own.

    Raises:
        UsageError: another kind of masks.
    """
    result = []
    for index, box in enumerate(found.boxes, start=1):
        width, height = box.image_size_px
        for part, (tag, kind, value) in enumerate(_regions(box, masks), start=1):
            region: dict[str, Any] = {
                "id": f"{index}-{part}", "from_name": tag, "to_name": PICTURE, "type": kind, "original_width": width,
                "original_height": height, "image_rotation": 0, "value": value,
            }  # fmt: skip
            if box.score is not None:
                region["score"] = round(box.score, 6)
            result.append(region)
    prediction: dict[str, Any] = {"model_version": model or found.model or "paligemma", "result": result}
    scores = [box.score for box in found.boxes if box.score is not None]
    if scores:
        prediction["score"] = round(sum(scores) / len(scores), 6)
    return {"data": {PICTURE: url_prefix + picture_path(found, number)}, "predictions": [prediction]}


def write_labelstudio(
    several: "Iterable[Detections]", path: str | Path, *, masks: Masks = "brush", url_prefix: str = "",
    model: str | None = None,
) -> Path:  # fmt: skip
    """Writes a list of tasks, one after the other, as Label Studio's import reads it.

    Raises:
        UsageError: another kind of masks.
        ResourceError: the file cannot be written.
    """
    with writing(path) as file:
        between = "[\n"
        for number, found in enumerate(several, start=1):
            task = to_labelstudio(found, number=number, masks=masks, url_prefix=url_prefix, model=model)
            file.write(between + json.dumps(task, ensure_ascii=False))
            between = ",\n"
        file.write("[]\n" if between == "[\n" else "\n]\n")
    return Path(path)


def labelling_config(labels: Sequence[str]) -> str:
    """The XML of a Label Studio project that takes these predictions."""
    lines = ["<View>", f'  <Image name="{PICTURE}" value="${PICTURE}"/>']
    for tag, name in ((BOXES, "RectangleLabels"), (BRUSH, "BrushLabels"), (POLYGON, "PolygonLabels")):
        lines.append(f'  <{name} name="{tag}" toName="{PICTURE}">')
        lines += [f"    <Label value={quoteattr(label)}/>" for label in dict.fromkeys(labels)]
        lines.append(f"  </{name}>")
    return "\n".join([*lines, "</View>", ""])
