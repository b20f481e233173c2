"""What nano gets right on scenes it has never seen, through the public interface."""

import random
from collections.abc import Sequence

from paligemma import PaliGemma
from paligemma.scenes import WORDS, Scene, Thing, caption, draw_scene, plural
from paligemma.scenes.language import article

HELD_OUT = 1_000_000_000  # seeds from here on are never trained on


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two (y, x, y, x) boxes."""
    height = min(a[2], b[2]) - max(a[0], b[0])
    width = min(a[3], b[3]) - max(a[1], b[1])
    if height <= 0 or width <= 0:
        return 0.0
    shared = height * width
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def matched(found: Sequence[Sequence[float]], true: Sequence[Sequence[float]]) -> int:
    """How many true boxes have a found box of their own at IoU 0.5 or more, greedily."""
    left = list(found)
    hits = 0
    for box in true:
        best = max(left, key=lambda other: overlap(box, other), default=None)
        if best is not None and overlap(box, best) >= 0.5:
            left.remove(best)
            hits += 1
    return hits


def share(hits: Sequence[bool]) -> float:
    return round(sum(hits) / max(1, len(hits)), 4)


def report(model: PaliGemma, scenes: int = 500) -> dict[str, float | int]:
    """Shares of right answers, and intersection over union of boxes, over `scenes` held-out pictures."""
    drawn = [scene for k in range(scenes) if (scene := draw_scene(HELD_OUT + k)).things]
    images = [scene.image for scene in drawn]
    rng = random.Random(0)
    wanted = [rng.choice(scene.things).label for scene in drawn]
    figures: dict[str, float | int] = {"scenes": len(drawn)}
    said = model.caption(images, batch_size=32)
    figures["caption_exact"] = share([a.text == caption(s) for a, s in zip(said, drawn, strict=True)])
    figures |= _detection(model, drawn, wanted)
    figures |= _questions(model, drawn, wanted)
    return figures | _reading(model, drawn)


def _detection(model: PaliGemma, drawn: list[Scene], wanted: list[str]) -> dict[str, float]:
    first, found, true, hits = [], 0, 0, 0
    for scene, label in zip(drawn, wanted, strict=True):
        boxes = [box.box_yxyx_norm for box in model.detect(scene.image, label)]
        truth = [thing.box for thing in scene.things if thing.label == label]
        first.append(max((overlap(boxes[0], t) for t in truth), default=0.0) if boxes else 0.0)
        found, true, hits = found + len(boxes), true + len(truth), hits + matched(boxes, truth)
    absent = [_absent(scene.things) for scene in drawn]
    silent = [not model.detect(scene.image, label).boxes for scene, label in zip(drawn, absent, strict=True)]
    return {
        "first_box_iou": round(sum(first) / len(first), 4),
        "first_box_iou_50": share([iou >= 0.5 for iou in first]),
        "detect_recall_50": round(hits / true, 4),
        "detect_precision_50": round(hits / max(1, found), 4),
        "detect_nothing_where_nothing": share(silent),
    }


def _absent(things: Sequence[Thing]) -> str:
    there = {thing.label for thing in things}
    return next(label for label in ("cat", "house", "star", "car", "tree") if label not in there)


def _questions(model: PaliGemma, drawn: list[Scene], wanted: list[str]) -> dict[str, float]:
    counted, colored, present = [], [], []
    for scene, label in zip(drawn, wanted, strict=True):
        of_kind = [thing for thing in scene.things if thing.label == label]
        counted.append(model.ask(scene.image, f"how many {plural(label)} are there?").text == str(len(of_kind)))
        if len(of_kind) == 1:
            colored.append(model.ask(scene.image, f"what color is the {label}?").text == of_kind[0].color)
        other = _absent(scene.things)
        for thing, answer in ((label, "yes"), (other, "no")):
            present.append(model.ask(scene.image, f"is there {article(thing)} {thing}?").text == answer)
    return {"count_right": share(counted), "color_right": share(colored), "presence_right": share(present)}


def _reading(model: PaliGemma, drawn: list[Scene]) -> dict[str, float]:
    known, random_strings = [], []
    vocabulary = {word.upper() for word in WORDS}
    for scene in drawn:
        if scene.text:
            right = model.ocr(scene.image).text == scene.text.word
            (known if scene.text.word in vocabulary else random_strings).append(right)
    return {"ocr_word_right": share(known), "ocr_random_string_right": share(random_strings)}
