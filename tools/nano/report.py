"""What nano gets right on scenes it has never seen, through the public interface."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from paligemma.api import PaliGemma, Query
from paligemma.api.calibrating import ask_labelled, report_of
from paligemma.data import LabelledImage, read_labelled
from paligemma.metrics import Calibration, box_iou, expected_calibration_error, mask_iou, match
from paligemma.results import Box, Detections
from paligemma.scenes.first import WORDS, Scene, Thing, caption, draw_scene, plural
from paligemma.scenes.first.language import article

HELD_OUT = 1_000_000_000  # seeds from here on are never trained on
CALIBRATION = 2_000_000_000  # and from here on only the calibration is fitted
MALFORMED = {"rejected", "no_mask"}  # notices of the parser about text that is no box, or a box without its mask


def held_out(scenes: int, first: int = HELD_OUT) -> list[Scene]:
    return [scene for k in range(scenes) if (scene := draw_scene(first + k)).things]


def corners(thing: Thing, scene: Scene) -> list[float]:
    """Left, top, right, bottom in pixels."""
    return [thing.box[i] * scene.image.width for i in (1, 0, 3, 2)]


def write_labelled(drawn: Sequence[Scene], folder: Path) -> None:
    """The scenes as a user's labelled folder: PNGs and labels.jsonl."""
    with (folder / "labels.jsonl").open("w") as file:
        for k, scene in enumerate(drawn):
            scene.image.save(folder / f"{k:05d}.png")
            boxes = [{"label": thing.label, "box": corners(thing, scene)} for thing in scene.things]
            file.write(json.dumps({"image": f"{k:05d}.png", "boxes": boxes}) + "\n")


def labelled(drawn: Sequence[Scene], folder: Path) -> list[LabelledImage]:
    write_labelled(drawn, folder)
    return read_labelled(folder)


def fit_calibration(model: PaliGemma, scenes: int = 500) -> Calibration:
    """The calibration that is bundled; its scenes are neither trained on nor reported on."""
    with TemporaryDirectory() as folder:
        drawn = held_out(scenes, CALIBRATION)
        examples = labelled(drawn, Path(folder))
        asked = ask_labelled(model, examples, batch_size=32)
        fitted = report_of(asked, len(examples)).calibration
    return Calibration(temperature=round(fitted.temperature, 4), shift=round(fitted.shift, 4), examples=fitted.examples)


def share(hits: Sequence[bool]) -> float:
    return round(sum(hits) / max(1, len(hits)), 4)


def report(model: PaliGemma, scenes: int = 500) -> dict[str, float | int]:
    """Shares of right answers, and intersection over union of boxes, over `scenes` held-out pictures."""
    drawn = held_out(scenes)
    images = [scene.image for scene in drawn]
    rng = random.Random(0)
    wanted = [rng.choice(scene.things).label for scene in drawn]
    figures: dict[str, float | int] = {"scenes": len(drawn)}
    said = model.caption(images, batch_size=32)
    figures["caption_exact"] = share([a.text == caption(s) for a, s in zip(said, drawn, strict=True)])
    figures |= _detection(model, drawn, wanted)
    figures |= _scores(model, drawn)
    figures |= _masks(model, drawn)
    figures |= _malformed(model, drawn)
    figures |= _questions(model, drawn, wanted)
    return figures | _reading(model, drawn)


def _detection(model: PaliGemma, drawn: list[Scene], wanted: list[str]) -> dict[str, float]:
    first, found, true, hits = [], 0, 0, 0
    answers = model.run(_queries("detect", drawn, wanted), batch_size=32)
    for scene, label, boxes in zip(drawn, wanted, answers, strict=True):
        assert isinstance(boxes, Detections)
        truth = [corners(thing, scene) for thing in scene.things if thing.label == label]
        first.append(float(box_iou(boxes.xyxy[:1], truth).max(initial=0)))
        right = match(boxes.xyxy, np.ones(len(boxes)), truth).correct.sum()
        found, true, hits = found + len(boxes), true + len(truth), hits + int(right)
    absent = [_absent(scene.things) for scene in drawn]
    silent = [not answer.raw for answer in model.run(_queries("detect", drawn, absent), batch_size=32)]
    return {
        "first_box_iou": round(float(sum(first)) / len(first), 4),
        "first_box_iou_50": share([iou >= 0.5 for iou in first]),
        "detect_recall_50": round(hits / true, 4),
        "detect_precision_50": round(hits / max(1, found), 4),
        "detect_nothing_where_nothing": share(silent),
    }


def _queries(task: str, drawn: Sequence[Scene], labels: Sequence[str], **options: bool) -> list[Query]:
    return [Query(s.image, task, {"objects": [o]}, dict(options)) for s, o in zip(drawn, labels, strict=True)]


def _scores(model: PaliGemma, drawn: list[Scene]) -> dict[str, float]:
    """Do the scores rank, and do they mean what they say, before and after the bundled calibration?"""
    with TemporaryDirectory() as folder:
        asked = ask_labelled(model, labelled(drawn, Path(folder)), batch_size=32)
    report = report_of(asked, len(drawn))
    scores = np.concatenate([one.match.scores for one in asked])
    correct = np.concatenate([one.match.correct for one in asked])
    mended = (model.calibration or Calibration()).apply(scores)
    return {
        "detect_ap50": round(report.ap50, 4),
        "detect_ap50_constant_scores": round(report.ap50_constant, 4),
        "calibration_error_raw": round(expected_calibration_error(scores, correct), 4),
        "calibration_error": round(expected_calibration_error(mended, correct), 4),
    }


def _masks(model: PaliGemma, drawn: list[Scene]) -> dict[str, float]:
    """Masks of everything that is there, asked label by label: IoU of the true and the found one, 0 where none is."""
    asked = [(scene, label) for scene in drawn for label in dict.fromkeys(t.label for t in scene.things)]
    answers = model.run(_queries("segment", [s for s, _ in asked], [label for _, label in asked]), batch_size=32)
    each = []
    for (scene, label), found in zip(asked, answers, strict=True):
        assert isinstance(found, Detections)
        free = list(found)
        for thing in (thing for thing in scene.things if thing.label == label):
            best = max(free, key=lambda box: _mask_overlap(box, thing), default=None)
            each.append(0.0 if best is None else _mask_overlap(best, thing))
            if best is not None and each[-1] > 0:
                free.remove(best)
    hits = [iou for iou in each if iou >= 0.5]
    return {
        "mask_iou": round(sum(each) / len(each), 4),
        "mask_iou_50": round(len(hits) / len(each), 4),
        "mask_iou_of_found": round(sum(hits) / max(1, len(hits)), 4),
    }


def _mask_overlap(box: Box, thing: Thing) -> float:
    return 0.0 if box.mask is None else float(mask_iou(box.mask.array(), thing.mask))


def _malformed(model: PaliGemma, drawn: list[Scene]) -> dict[str, float]:
    """Answers that are not what was asked for: text that is no box, boxes without mask, labels nobody named."""
    figures = {}
    for grammar in (False, True):
        wrong = []
        for task in ("detect", "segment"):
            wanted = [_two_labels(scene.things) for scene in drawn]
            queries = [
                Query(scene.image, task, {"objects": labels}, {"grammar": grammar})
                for scene, labels in zip(drawn, wanted, strict=True)
            ]
            for labels, found in zip(wanted, model.run(queries, batch_size=32), strict=True):
                assert isinstance(found, Detections)
                codes = {notice.code for notice in found.warnings}
                wrong.append(bool(codes & MALFORMED) or any(box.label not in labels for box in found))
        figures["malformed_with_grammar" if grammar else "malformed_without_grammar"] = share(wrong)
    return figures


def _two_labels(things: Sequence[Thing]) -> list[str]:
    return [things[0].label, _absent(things)]


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
