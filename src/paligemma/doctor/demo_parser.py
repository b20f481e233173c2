"""The Hugging Face demo's own way to read an answer, kept for the self-test that compares with it.

An answer comes in, its objects go out as the demo makes them: bins divided by 1024, edges rounded half to even and not
kept inside the picture, labels with the spaces behind them, text that is no object as an object without a box. Nothing
of the package uses it: `tasks.segment` reads more, and says what it rejected. Source: the space `big-vision/paligemma`,
in the words of the format's description and of golden examples.
"""

import re
from dataclasses import dataclass

_BIN, _CODE = r"<loc(\d{4})>", r"<seg(\d{3})>"
_OBJECT = re.compile(rf"(.*?){_BIN * 4}\s*(?:{_CODE * 16})?\s*([^;<>]+)? ?(?:; )?")
_LABEL = 22  # its group: text before, 4 bins, 16 codes, label


@dataclass(frozen=True)
class DemoObject:
    """A piece of the answer; `loc` is None where it is only text, `codes` where it has no mask."""

    content: str
    name: str | None = None
    loc: tuple[int, ...] | None = None
    codes: tuple[int, ...] | None = None

    def xyxy(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Left, top, right, bottom in pixels."""
        assert self.loc is not None
        y1, x1, y2, x2 = (location / 1024 for location in self.loc)
        return round(x1 * width), round(y1 * height), round(x2 * width), round(y2 * height)


def extract_objects(text: str, *, unique_labels: bool = False) -> list[DemoObject]:
    """Objects and the text between them, in order; `unique_labels` marks a repeated name by an apostrophe each time."""
    found: list[DemoObject] = []
    names: set[str | None] = set()
    while text and (match := _OBJECT.match(text)):
        before = match[1]
        if before:
            found.append(DemoObject(before))
        name = match[_LABEL]
        while unique_labels and name in names:
            name = (name or "") + "'"
        names.add(name)
        loc = tuple(int(match[group]) for group in range(2, 6))
        codes = None if match[6] is None else tuple(int(match[group]) for group in range(6, _LABEL))
        found.append(DemoObject(match[0][len(before) :], name or None, loc, codes))
        text = text[match.end() :]
    return [*found, DemoObject(text)] if text else found
