"""One command over its sources: load one model, answer in batches, print, save.

A picture that cannot be used is told in a sentence and the others go on; anything else that goes wrong (the model,
memory, an option) ends the command, and what was answered until then is kept. Memory holds one batch.
"""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from paligemma.errors import EXIT_INTERRUPTED, EXIT_NO_INPUT, EXIT_PARTIAL, InputError, PaliGemmaError
from paligemma.interfaces.cli import console, formats
from paligemma.interfaces.cli.formats import TASKS_WITH_BOXES, Outcome, Target
from paligemma.interfaces.cli.options import AnswerOptions, BoxOptions, ModelOptions, OutputOptions, SourceOptions
from paligemma.interfaces.cli.progress import Bar, several_on_a_terminal
from paligemma.interfaces.cli.report import describe
from paligemma.interfaces.cli.saving import Saver
from paligemma.interfaces.cli.sources import Item, Sources

if TYPE_CHECKING:
    from paligemma.api import PaliGemma
    from paligemma.results import Answer


def run(
    arguments: Sequence[str],
    verb: str,
    words: Mapping[str, Any],
    source: SourceOptions,
    model: ModelOptions,
    answer: AnswerOptions,
    output: OutputOptions,
    boxes: BoxOptions | None = None,
    together: bool = False,
) -> int:
    """One command: `verb` with its `words` over all pictures that `arguments` stand for.

    Args:
        words: what the verb is asked, by the names and in the order of its arguments in Python.
        together: all pictures are one example; otherwise each is one.

    Returns:
        the exit code.
    """
    boxes = boxes or BoxOptions()
    kind = output.kind
    with console.quiet(output.quiet):
        formats.check(kind, verb, output.out)
        written = (output.save, boxes.save_crops, boxes.save_mask, output.out)
        if any(written):
            model.in_one_process("write files")
        sources = Sources(arguments, source, skip=written)
        several = sources.several and not together
        saver = Saver(output, boxes, sources, several)
        check_words(verb, words)
        options = {**answer.of_api(), **boxes.of_api()}
        bar = Bar(sources.count() if several else None, several_on_a_terminal(several, output.quiet))
        asked = Asked(sources, verb, words, options, model, output, saver, bar, together)
        asked.batch_size = answer.batch_size
        told = formats.WRITERS[kind](asked, Target(output.out))
        if output.out is not None and asked.answered:
            console.note(f"wrote {output.out}")
        return asked.status(told)


def load(options: ModelOptions) -> "PaliGemma":
    """The model, with what loading had to say told on stderr."""
    from paligemma.api import load as load_model

    name = options.model
    chosen = {key: value for key, value in asdict(options).items() if key != "model"}
    if options.parallel is not None and os.environ.get("RANK", "0") != "0":  # all say the same; the first is heard
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    model = load_model(name, **chosen)
    for notice in model.notes:
        console.note(str(notice), "note")
    if model.packed is not None:
        console.note(str(model.packed), "note")
    return model


def check_words(verb: str, words: Mapping[str, Any]) -> None:
    """Refuses an empty question or an unknown language before a model is loaded for it.

    Raises:
        UsageError: words that make no prompt.
    """
    from paligemma.tasks import TASKS

    TASKS[verb].prompt(*words.values())


class Asked:
    """The outcomes of a command, made as they are asked for; implements `formats.Outcomes`.

    What ends the command early is kept in `stopped` and not raised, so that whoever writes can finish the file.
    """

    batch_size = 8

    def __init__(
        self, sources: Sources, task: str, words: Mapping[str, Any], options: Mapping[str, Any],
        model: ModelOptions, output: OutputOptions, saver: Saver, bar: Bar, together: bool,
    ):  # fmt: skip
        self.sources, self.task, self.words, self.options = sources, task, words, options
        self.model_options, self.output, self.saver, self.bar, self.together = model, output, saver, bar, together
        self.several = sources.several and not together
        self.failed = self.answered = 0
        self.stopped: BaseException | None = None
        self._model: PaliGemma | None = None

    def __iter__(self) -> Iterator[Outcome]:
        with ExitStack() as stack:
            try:
                for batch in self._batches():
                    if self._model is None and any(item.error is None for item in batch):
                        self._model = load(self.model_options)
                        stack.enter_context(self.bar)
                    for outcome in self._answer(batch):
                        self._tell(outcome)
                        yield outcome
                        self.bar.step()
            except (Exception, KeyboardInterrupt) as error:
                begun = self.answered if self.output.out else self.answered + self.failed
                if not self.several or not begun:
                    raise
                self.stopped = error

    def status(self, told: bool) -> int:
        """The exit code; raises what ended the command, unless that is `told` in the output already."""
        if isinstance(self.stopped, KeyboardInterrupt):
            console.error(f"interrupted; what was answered until then is kept: {self.answered}")
            return EXIT_INTERRUPTED
        if isinstance(self.stopped, Exception):
            if not told:
                raise self.stopped
            _, status, sentence = describe(self.stopped)
            console.error(sentence)
            return status
        if not self.failed:
            return 0
        console.note(f"{self.failed} of {self.failed + self.answered} images could not be used")
        return EXIT_PARTIAL if self.answered else EXIT_NO_INPUT

    def _batches(self) -> Iterator[list[Item]]:
        """Items in their order; several pictures of one example become one item."""
        if self.together:
            items = list(self.sources)
            for item in items:
                if item.error is not None:
                    raise item.error
            pictures = tuple(picture for item in items for picture in item.pictures)
            yield [Item(name=items[0].name, pictures=pictures, place=items[0].place)]
            return
        batch: list[Item] = []
        for item in self.sources:
            if item.error is not None and not self.several:
                raise item.error
            batch.append(item)
            if len(batch) == self.batch_size:
                yield batch
                batch = []
        if batch:
            yield batch

    def _answer(self, batch: Sequence[Item]) -> Iterator[Outcome]:
        """The outcomes of one batch, in order."""
        good = [item for item in batch if item.error is None]
        if good and self._streams():
            yield self._stream(good[0])
            return
        answers = iter(self._run(good))
        for item in batch:
            result = next(answers) if item.error is None else item.error
            if isinstance(result, InputError):
                if not self.several:
                    raise result
                yield Outcome(item, error=result)
            elif isinstance(result, PaliGemmaError):
                raise result
            else:
                yield Outcome(item, _named(result, item))

    def _run(self, items: Sequence[Item]) -> "Sequence[Answer | PaliGemmaError]":
        from paligemma.api import Images, Query

        if self._model is None or not items:
            return []
        queries = [Query(Images(*item.pictures), self.task, self.words, self.options) for item in items]
        return self._model.run(queries, batch_size=self.batch_size, on_error="return")

    def _streams(self) -> bool:
        """Whether the answer appears while it is made: one text for a person at a terminal."""
        from paligemma.tasks import task_of

        to_terminal = self.output.kind in ("table", "raw") and self.output.out is None and sys.stdout.isatty()
        if self.several or not to_terminal or self.options.get("num_beams", 1) != 1:
            return False
        return self.task not in TASKS_WITH_BOXES and task_of(str(self.words.get("prompt", ""))) not in TASKS_WITH_BOXES

    def _stream(self, item: Item) -> Outcome:
        from paligemma.api import Images

        assert self._model is not None
        prompt = self._model.prompt(self.task, *self.words.values())
        stream = self._model.stream(Images(*item.pictures), prompt, **self.options)
        for piece in stream:
            console.say(piece, end="")
        console.say("")
        return Outcome(item, _named(stream.answer, item), printed=True)

    def _tell(self, outcome: Outcome) -> None:
        """Warnings, saved files and, on request, how it went: all on stderr."""
        item, found = outcome.item, outcome.found
        if found is None:
            self.failed += 1
            sentence = str(outcome.error)
            console.error(sentence if item.name in sentence else f"{item.title}: {sentence}")
            return
        self.answered += 1
        head = f"{item.title}: " if self.several else ""
        for notice in found.warnings:
            detail = _detail(notice) if self.output.verbose else ""
            console.warn(f"{head}{notice}{detail}")
        if self.output.verbose:
            console.note(f"{item.title}: {how_it_went(found)}")
        for path in self.saver(item, found):
            if not self.several or self.output.verbose:
                console.note(f"saved {path}")


def how_it_went(found: "Answer") -> str:
    """`5 tokens, ended by stop, score 0.812, 0.02 s to prepare, 0.31 s to generate`."""
    told = [] if found.tokens is None else [f"{len(found.tokens)} tokens"]
    told.append(f"ended by {found.finish_reason}")
    if found.score is not None:
        told.append(f"score {found.score:.3g}")
    names = {"preprocess": "to prepare", "generate": "to generate"}
    told += [f"{seconds:.2f} s {names.get(name, name)}" for name, seconds in found.timing.items()]
    return ", ".join([*told, f"prompt {found.prompt!r}", f"raw {found.raw!r}"])


def _named(found: "Answer", item: Item) -> "Answer":
    """The answer with the names of its pictures, also where these were no files."""
    return found if found.paths == item.paths else replace(found, paths=item.paths)


def _detail(notice: Any) -> str:
    """What a warning is about, for `--verbose`: ` [code] at 12: '<loc0005>'`."""
    where = "" if notice.at is None else f" at {notice.at}"
    what = "" if notice.fragment is None else f": {notice.fragment!r}"
    return f" [{notice.code}]{where}{what}"
