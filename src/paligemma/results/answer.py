"""An answer in words, with everything known about how it came about."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from paligemma.errors import UsageError
from paligemma.results.drawing import contact_sheet, enlarged, with_strip
from paligemma.results.files import told, writing
from paligemma.results.notice import Notice
from paligemma.results.tables import ANSWER_COLUMNS, answer_row, table


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the model said about one example.

    Args:
        text: for people: the answer without outer spaces; of boxes their labels.
        raw: exactly what the model wrote, up to its end token.
        task: the verb, such as `ask`; prompt: what was sent, without control tokens.
        finish_reason: `stop` (the model ended) or `length` (cut at `max_tokens`) or `repetition` (it ran in circles).
        score: probability 0..1 that the model gives to exactly this answer, its end included.
        tokens: ids of the answer, and `logprobs` of each, natural logarithm.
        timing: seconds: `preprocess`, and `generate` for the whole batch the example ran in.
        images: the pictures, upright RGB; paths: their files, where they came from files.
    """

    text: str
    raw: str
    task: str
    prompt: str
    finish_reason: str = "stop"
    warnings: tuple[Notice, ...] = ()
    model: str | None = None
    score: float | None = None
    image_size_px: tuple[int, int] | None = None
    tokens: tuple[int, ...] | None = field(default=None, repr=False)
    logprobs: tuple[float, ...] | None = field(default=None, repr=False)
    timing: dict[str, float] = field(default_factory=dict, repr=False, compare=False)
    images: tuple[Image.Image, ...] = field(default=(), repr=False, compare=False)
    paths: tuple[str | None, ...] = field(default=(), repr=False, compare=False)

    @property
    def truncated(self) -> bool:
        """True when the answer was cut at `max_tokens`."""
        return self.finish_reason == "length"

    def __str__(self) -> str:
        return self.text

    def to_dict(self, *, with_tokens: bool = False) -> dict[str, Any]:
        """Plain data for JSON, pictures by path and size only; `with_tokens` adds `tokens` and `logprobs`."""
        row: dict[str, Any] = {
            "model": self.model,
            "task": self.task,
            "prompt": self.prompt,
            "text": self.text,
            "raw": self.raw,
            "score": None if self.score is None else round(self.score, 6),
            "finish_reason": self.finish_reason,
            "truncated": self.truncated,
            "images": self._image_rows(),
            "warnings": [notice.to_dict() for notice in self.warnings],
            "timing": {key: round(seconds, 6) for key, seconds in self.timing.items()},
        }
        if with_tokens:
            row["tokens"] = None if self.tokens is None else list(self.tokens)
            row["logprobs"] = None if self.logprobs is None else [round(p, 6) for p in self.logprobs]
        return row

    def _image_rows(self) -> list[dict[str, Any]]:
        """Path and size of each picture; of pictures that were let go, the first one's size is still known."""
        count = max(len(self.images), len(self.paths), self.image_size_px is not None)
        paths = self.paths or (None,) * count
        sizes: list[tuple[int, int] | None] = [image.size for image in self.images]
        if count and not sizes:
            sizes = [self.image_size_px, *[None] * (count - 1)]
        return [
            {"path": path, "width": size and size[0], "height": size and size[1]}
            for path, size in zip(paths, sizes, strict=True)
        ]

    def to_json(self, *, indent: int | None = None, with_tokens: bool = False) -> str:
        """`to_dict` as JSON text, in UTF-8 characters and not in escapes."""
        return json.dumps(self.to_dict(with_tokens=with_tokens), ensure_ascii=False, indent=indent)

    def plot(self) -> Image.Image:
        """The picture with the answer in a strip below it; small pictures are enlarged so that text is readable.

        Raises:
            UsageError: the answer holds no picture.
        """
        sheet, _ = enlarged(contact_sheet(self.images))
        return with_strip(sheet, self.prompt, self.text or "(empty answer)")

    def to_csv(self) -> str:
        """A head and one row: `image, task, prompt, text, score, finish_reason`."""
        return table(ANSWER_COLUMNS, [answer_row(self)])

    def save(self, path: str | Path) -> Path:
        """Writes the answer: `.json` its data, `.csv` its rows, `.txt` its text, any picture suffix its plot.

        Raises:
            UsageError: another suffix.
            ResourceError: the file cannot be written.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        texts = {".json": lambda: self.to_json(indent=2) + "\n", ".csv": self.to_csv, ".txt": lambda: self.text + "\n"}
        if suffix in texts:
            with writing(path) as file:
                file.write(texts[suffix]())
        elif Image.registered_extensions().get(suffix) in Image.SAVE:
            crisp: dict[str, Any] = {"quality": 92, "subsampling": 0} if suffix in (".jpg", ".jpeg") else {}
            with told(path):
                self.plot().save(path, **crisp)
        else:
            raise UsageError(f"cannot tell from {path.name!r} what to write; end it in .png, .jpg, .json, .csv or .txt")
        return path
