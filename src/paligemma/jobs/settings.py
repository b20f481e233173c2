"""What a job is asked to do, as a value that can be written down and compared.

In: the command's choices. Out: plain JSON, and the sentence about what differs. Not done here: reading files.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from paligemma.errors import UsageError
from paligemma.jobs.requests import Defaults

CHUNK_BATCHES = 4  # batches in a chunk, so that prompts of like length meet in one


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that the answers depend on, besides the inputs and the weights.

    Args:
        sources: folders, globs, CSV and JSONL files, pictures.
        recursive: pictures in the folders below a folder too.
        task, words: for inputs that do not say it themselves, see `Defaults`.
        model: arguments of `load`, the name as "model".
        options: keywords of the verbs, such as {"max_tokens": 64}; `seed` is that of the first input, the next have
            the next ones; None draws one when the job begins.
        batch_size: inputs run together; None estimates it from the model and the memory when the job begins.
    """

    sources: tuple[str, ...]
    recursive: bool = False
    task: str | None = None
    words: Mapping[str, str] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int | None = None

    def __post_init__(self) -> None:
        if not self.sources:
            raise UsageError("no input was named; give a folder, a glob in quotes, a .csv or a .jsonl")
        if self.batch_size is not None and self.batch_size < 1:
            raise UsageError(f"batch_size is {self.batch_size}; give an integer from 1")

    @property
    def defaults(self) -> Defaults:
        return Defaults(task=self.task, words=self.words)

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON gives them back."""
        row: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return row


def check_same(before: Mapping[str, Any], settings: Settings, folder: object) -> None:
    """Refuses to go on with other settings than a job began with; what is left to choice now may have been set then.

    Args:
        before: `Settings.to_json` of the job.

    Raises:
        UsageError: names the first difference.
    """
    now = settings.to_json()
    for part in (entry.name for entry in fields(Settings)):
        was, is_now = before.get(part), now[part]
        if isinstance(is_now, dict):
            pairs = [(key, (was or {}).get(key), is_now.get(key)) for key in sorted({*(was or {}), *is_now})]
        else:
            pairs = [(part, was, is_now)]
        for name, old, new in pairs:
            if old != new:
                raise UsageError(
                    f"the job in {folder} began with {name} {_shown(old)} and is to go on with {_shown(new)}; "
                    "give the same again, or begin another job with another --out"
                )


def _shown(value: Any) -> str:
    if value is None:
        return "unset"
    return ", ".join(map(str, value)) if isinstance(value, list) else repr(value)
