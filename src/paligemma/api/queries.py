"""One question about one example, as a value: what `PaliGemma.run` takes and what every verb makes of its arguments."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from paligemma.api.options import check_options
from paligemma.config import did_you_mean
from paligemma.errors import UsageError
from paligemma.tasks import TASKS

# The words of each verb, by the names of its arguments, and the one it cannot do without.
WORDS: dict[str, list[str]] = {
    "caption": ["language", "style"], "ask": ["question", "language"], "ocr": [], "detect": ["objects"],
    "segment": ["objects"], "generate": ["prompt"],
}  # fmt: skip
REQUIRED = {"ask": "question", "detect": "objects", "segment": "objects", "generate": "prompt"}


@dataclass(frozen=True)
class Query:
    """`Query("a.jpg", "detect", {"objects": "cat; dog"}, {"max_tokens": 64})` is `model.detect("a.jpg", ...)`, later.

    Args:
        images: the pictures of ONE example: a picture, `Images`, or a list of pictures.
        task: the verb.
        words: its own arguments by name, such as `{"question": "how many?", "language": "de"}`.
        options: its keywords (`Options`), except `batch_size`, which belongs to the run.
    """

    images: Any
    task: str = "caption"
    words: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """
        Raises:
            UsageError: unknown verb, word or option; or a word that is missing.
        """
        if self.task not in TASKS:
            raise UsageError(f"unknown task {self.task!r}{did_you_mean(str(self.task), TASKS)}")
        known = WORDS[self.task]
        for name in self.words:
            if name not in known:
                raise UsageError(f"{self.task} has no argument {name!r}{did_you_mean(name, known)}")
        required = REQUIRED.get(self.task)
        if required and required not in self.words:
            raise UsageError(f"{self.task} was asked without {required!r}; give it as words={{{required!r}: ...}}")
        if "batch_size" in self.options:
            raise UsageError(
                "batch_size was given with a query, but it belongs to the whole run: run(..., batch_size=)"
            )
        check_options(self.task, self.options)
