"""An answer in words, with everything known about how it came about."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from paligemma.errors import ResourceError, UsageError
from paligemma.results.drawing import contact_sheet, enlarged, with_strip
from paligemma.results.notice import Notice


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
        paths = self.paths or (None,) * len(self.images)
        images = [
            {"path": path, "width": image.width, "height": image.height}
            for path, image in zip(paths, self.images, strict=True)
        ]
        row: dict[str, Any] = {
            "model": self.model,
            "task": self.task,
            "prompt": self.prompt,
            "text": self.text,
            "raw": self.raw,
            "score": None if self.score is None else round(self.score, 6),
            "finish_reason": self.finish_reason,
            "truncated": self.truncated,
            "images": images,
            "warnings": [notice.to_dict() for notice in self.warnings],
            "timing": {key: round(seconds, 6) for key, seconds in self.timing.items()},
        }
        if with_tokens:
            row["tokens"] = None if self.tokens is None else list(self.tokens)
            row["logprobs"] = None if self.logprobs is None else [round(p, 6) for p in self.logprobs]
        return row

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

    def save(self, path: str | Path) -> Path:
        """Writes the answer: `.json` its data, `.txt` its text, any picture suffix its plot.

        Raises:
            UsageError: a suffix that is neither.
            ResourceError: the file cannot be written.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        try:
            if suffix == ".json":
                path.write_text(self.to_json(indent=2) + "\n", encoding="utf-8")
            elif suffix == ".txt":
                path.write_text(self.text + "\n", encoding="utf-8")
            elif Image.registered_extensions().get(suffix) in Image.SAVE:
                self.plot().save(path)
            else:
                raise UsageError(f"cannot tell from {path.name!r} what to write; end it in .png, .jpg, .json or .txt")
        except OSError as error:
            reason = error.strerror or str(error)
            raise ResourceError(f"cannot write {path} ({reason}); choose a folder with space and permission") from error
        return path
