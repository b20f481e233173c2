"""Pictures of what a model said beside what is true, for people to look at.

In: questions with their answers. Out: PNG files, one for each, and `answers.txt` with the words of all.
"""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from paligemma.results import Answer, Box, Detections, Mask
from paligemma.results.drawing import contact_sheet, draw_boxes, enlarged, with_strip
from paligemma.results.files import folder, told, writing
from paligemma.tasks.segment import Decode
from paligemma.train.judging.grading import Question, true_objects

_GAP_PX = 12
_GROUND = (250, 250, 248)


def side_by_side(question: Question, answer: Answer, decode: Decode | None = None) -> Image.Image:
    """What was found on the left and what is there on the right; of texts the picture above both.

    Args:
        decode: makes pixels of true mask codes.
    """
    if not isinstance(answer, Detections):
        sheet, _ = enlarged(contact_sheet(answer.images))
        said = with_strip(sheet, f"{question.prefix}  -  said", answer.text or "(nothing)")
        return with_strip(said, "true", question.suffix or "(nothing)")
    there = _truth(question, answer.images[0].size, decode)
    halves = [_half(question, answer, "found", answer.boxes), _half(question, answer, "true", there)]
    height = max(half.height for half in halves)
    canvas = Image.new("RGB", (sum(half.width for half in halves) + _GAP_PX, height), _GROUND)
    canvas.paste(halves[0], (0, 0))
    canvas.paste(halves[1], (halves[0].width + _GAP_PX, 0))
    return canvas


def _half(question: Question, answer: Detections, name: str, boxes: Sequence[Box]) -> Image.Image:
    sheet, scale = enlarged(contact_sheet(answer.images[:1]))
    draw_boxes(sheet, boxes, scale)
    return with_strip(sheet, name, question.prefix if boxes else f"{question.prefix}: nothing")


def _truth(question: Question, size_px: tuple[int, int], decode: Decode | None) -> list[Box]:
    """The true objects as if they had been found."""
    boxes = []
    for thing in true_objects(question, size_px, decode):
        x1, y1, x2, y2 = thing.xyxyn
        mask = None if thing.mask is None else Mask.from_array(thing.mask)
        boxes.append(Box(label=thing.name, box_yxyx_norm=(y1, x1, y2, x2), image_size_px=size_px, mask=mask))
    return boxes


def save_samples(pairs: Sequence[tuple[Question, Answer]], target: Path, decode: Decode | None = None) -> list[Path]:
    """Writes `00-detect.png`, ... and `answers.txt` into a folder, which is made; returns the pictures.

    Raises:
        ResourceError: they cannot be written.
    """
    folder(target)
    written = []
    for number, (question, answer) in enumerate(pairs):
        path = target / f"{number:02d}-{question.task}.png"
        with told(path):
            side_by_side(question, answer, decode).save(path)
        written.append(path)
    with writing(target / "answers.txt") as file:
        for question, answer in pairs:
            file.write(f"{question.id}\nasked {question.prefix}\nsaid  {answer.raw}\ntrue  {question.suffix}\n\n")
    return written
