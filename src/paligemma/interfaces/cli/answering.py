"""Load one model, answer picture by picture, print, save.

A picture that cannot be read becomes an item with an error and the others go on; anything else that goes wrong (the
model, memory, an option) concerns all pictures and ends the command.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paligemma.errors import EXIT_NO_INPUT, EXIT_PARTIAL, InputError, ResourceError
from paligemma.interfaces.cli import console
from paligemma.interfaces.cli.options import (
    AnswerOptions,
    ModelOptions,
    OutputOptions,
    check_image,
    image_paths,
    save_targets,
    several,
)

if TYPE_CHECKING:
    from paligemma.api import PaliGemma
    from paligemma.results import Answer, Detections


def run(
    arguments: Sequence[str],
    verb: str,
    words: Sequence[str],
    model: ModelOptions,
    answer: AnswerOptions,
    output: OutputOptions,
    together: bool = False,
) -> int:
    """One command: `verb` with its `words` over all images named by `arguments`.

    Args:
        together: all images are one example; otherwise each is one.

    Returns:
        the exit code.
    """
    paths = image_paths(arguments)
    examples = [paths] if together else [[path] for path in paths]
    many = several(arguments) and not together
    targets = save_targets(output.save, paths, many, together)
    check_words(verb, words)
    errors = _refused(examples)
    loaded = load(model) if len(errors) < len(examples) else None
    items: list[dict[str, Any]] = []
    for i, example in enumerate(examples):
        try:
            if i in errors or loaded is None:
                raise errors[i]
            found = one(loaded, verb, example, words, answer, output, example[0] if many else None)
        except InputError as error:
            if not many:
                raise
            items.append(_failed(example[0], verb, error))
            continue
        if i in targets:
            console.note(f"saved {_saved(found, targets[i])}")
        items.append(found.to_dict())
    return _finish(items, many, output.json)


def load(options: ModelOptions) -> "PaliGemma":
    """The model, with what loading had to say told on stderr."""
    from paligemma.api import load as load_model

    name = options.model
    chosen = {key: value for key, value in asdict(options).items() if key != "model"}
    model = load_model(name, **chosen)
    for notice in model.notes:
        console.note(str(notice), "note")
    return model


def check_words(verb: str, words: Sequence[str]) -> None:
    """Refuses an empty question or an unknown language before a model is loaded for it.

    Raises:
        UsageError: words that make no prompt.
    """
    from paligemma.tasks import TASKS

    TASKS[verb].prompt(*words)


def one(
    model: "PaliGemma",
    verb: str,
    example: Sequence[str],
    words: Sequence[str],
    options: AnswerOptions,
    output: OutputOptions,
    path: str | None,
) -> "Answer":
    """Answers one example and prints the answer, unless JSON is wanted: piece by piece on a terminal.

    Args:
        path: printed in front, among several.
    """
    from paligemma.api import Images
    from paligemma.tasks import task_of

    prompt, chosen = model.prompt(verb, *words), asdict(options)
    pictures = Images(*example)
    in_words = task_of(prompt.text) not in ("detect", "segment")
    if in_words and path is None and not output.json and options.num_beams == 1 and sys.stdout.isatty():
        stream = model.stream(pictures, prompt, **chosen)
        for piece in stream:
            console.say(piece, end="")
        console.say("")
        found = stream.answer
    else:
        found = model.generate(pictures, prompt, **chosen)
        if not output.json:
            console.say(text_of(found, path))
    for notice in found.warnings:
        console.warn(f"{path}: {notice}" if path else str(notice))
    return found


def text_of(found: "Answer", path: str | None = None) -> str:
    """What is printed for people: the answer's text, or a table of boxes in pixels; after its path among several."""
    from paligemma.results import Detections

    text = boxes_table(found) if isinstance(found, Detections) else found.text
    if path is None:
        return text
    return f"{path}:\n{text}" if "\n" in text else f"{path}: {text}"


def boxes_table(found: "Detections") -> str:
    """One line per box: label and its left, top, right, bottom in whole pixels."""
    if not found.boxes:
        return "nothing found"
    rows = [[box.label or "-", *(str(round(value)) for value in box.xyxy)] for box in found.boxes]
    return console.table(["label", "left", "top", "right", "bottom"], rows, right=(1, 2, 3, 4))


def _refused(examples: Sequence[Sequence[str]]) -> dict[int, InputError]:
    """The examples that are plainly no images, found before a model is loaded for them."""
    errors = {}
    for i, example in enumerate(examples):
        try:
            for path in example:
                check_image(path)
        except InputError as error:
            errors[i] = error
    return errors


def _failed(path: str, verb: str, error: InputError) -> dict[str, Any]:
    """Tells of one bad image, and gives its place in the list of results."""
    sentence = str(error)
    console.error(sentence if path in sentence else f"{path}: {sentence}")
    return {"task": verb, "images": [{"path": path}], "error": {"code": error.code, "message": sentence}}


def _saved(found: "Answer", target: Path) -> Path:
    """Writes the answer, and the directory it goes to where that is missing.

    Raises:
        ResourceError: neither can be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(f"cannot make the directory {target.parent} ({error.strerror}); choose another") from error
    return found.save(target)


def _finish(items: list[dict[str, Any]], many: bool, json: bool) -> int:
    failed = sum("error" in item for item in items)
    if json:
        console.print_json({"results": items, "failed": failed} if many else items[0])
    if not failed:
        return 0
    console.note(f"{failed} of {len(items)} images could not be used")
    return EXIT_NO_INPUT if failed == len(items) else EXIT_PARTIAL
