"""What went oddly: a stable code, a sentence for people, and the fragment of raw text it is about."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Notice:
    """Something the user should know about an answer; `code` is stable, `at` counts characters of the raw text."""

    code: str
    message: str
    fragment: str | None = None
    at: int | None = None

    def __str__(self) -> str:
        return self.message

    def to_dict(self) -> dict[str, Any]:
        known = {"code": self.code, "message": self.message, "fragment": self.fragment, "at": self.at}
        return {key: value for key, value in known.items() if value is not None}
