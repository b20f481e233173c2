"""Training rows in the terminal: every token with its part, and whether it is trained; `view_html` has the page.

    train.jsonl:12   267 tokens, 6 trained
      i  <image> x 256
      p  <bos>|detect|·cat|↵
      S  <loc0102>|<loc0077>|<loc0890>|<loc0941>|·cat|<eos>

i image, p prompt, s answer, . padding; a capital letter means trained, so that a healthy row has S and nothing else in
capitals. Colours say the same where the terminal has them.
"""

import unicodedata
from collections.abc import Sequence
from typing import TextIO

from paligemma.train.checks.rows import Part, Row, Token

LETTERS: dict[Part, str] = {"image": "i", "prefix": "p", "suffix": "s", "pad": "."}
WORDS: dict[Part, str] = {"image": "image", "prefix": "prompt", "suffix": "answer", "pad": "padding"}
STYLES: dict[Part, str] = {"image": "dim", "prefix": "blue", "suffix": "yellow", "pad": "dim"}
TRAINED, WRONG = "bold green", "bold white on red"  # a suffix token that is trained; anything else that is
LEGEND = "i image  p prompt  s answer  . padding; capital letter: trained"


def as_text(rows: Sequence[Row]) -> str:
    """The rows without colours, a line for each run of tokens of a kind."""
    return "\n\n".join(["\n".join(line for line, _ in lines(row)) for row in rows] + [LEGEND])


def show(rows: Sequence[Row], stream: TextIO) -> None:
    """Prints the rows, in colours where the terminal has them and `NO_COLOR` is not set."""
    from rich.console import Console
    from rich.text import Text

    console = Console(file=stream, soft_wrap=True, highlight=False)
    for row in rows:
        for line, style in lines(row):
            console.print(Text(line, style=style))
        console.print()
    console.print(Text(LEGEND))


def lines(row: Row) -> list[tuple[str, str]]:
    """The lines of one row with their styles."""
    trained = sum(token.trained for token in row.tokens)
    length = len(row.tokens) - len(row.of("pad"))
    found = [(f"{printable(row.id)}   {length} tokens, {trained} trained", "bold")]
    for part, learnt, tokens in row.runs():
        letter = LETTERS[part].upper() if learnt else LETTERS[part]
        mark = "!" if letter == "." and learnt else letter
        found.append((f"  {mark}  {_pieces(part, tokens)}", style(part, learnt)))
    return found


def style(part: Part, trained: bool) -> str:
    """Of rich, for the tokens of a kind."""
    if not trained:
        return STYLES[part]
    return TRAINED if part == "suffix" else WRONG


def printable(piece: str) -> str:
    """One token's text on one line: space as `·`, newline as `↵`, what could steer a terminal as its number."""
    known = {" ": "·", "\n": "↵", "\t": "⇥"}
    return "".join(
        known.get(c) or (f"<U+{ord(c):04X}>" if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp") else c)
        for c in piece
    )


def _pieces(part: Part, tokens: Sequence[Token]) -> str:
    if part in ("image", "pad"):
        return f"{printable(tokens[0].piece)} x {len(tokens)}"
    return "|".join(printable(token.piece) for token in tokens)
