"""Training rows as one HTML page that needs nothing beside it: `examples.html` of a run.

In: `Row`s and what was found about them. Out: HTML with inline styles, pictures as the model sees them with the boxes
of the answer drawn in, and every token coloured; its id stands on hover. All text is escaped, nothing is loaded.
"""

import base64
import io
from collections.abc import Sequence
from html import escape

from torch import Tensor

from paligemma.results.drawing import COLORS
from paligemma.tasks.grammar import text_to_boxes
from paligemma.train.checks.rows import Row, Token, picture
from paligemma.train.checks.token_checks import Finding
from paligemma.train.checks.view import WORDS, printable

SIDE_PX = 224  # of a picture on the page
JPEG_QUALITY = 80
_UNIT = 1000  # side of a picture in the units its boxes are drawn in

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #18181b }
h2 { font-size: 1rem; margin: 2rem 0 .4rem; overflow-wrap: anywhere }
.row { display: flex; gap: 1rem; align-items: flex-start }
.shown { position: relative; flex: none; line-height: 0 }
.shown svg { position: absolute; inset: 0; width: 100%; height: 100% }
.tokens { overflow-wrap: anywhere }
.t { border-radius: 3px; padding: 1px 3px; margin: 1px; display: inline-block }
.image { background: #e4e4e7; color: #52525b } .prefix { background: #dbeafe } .suffix { background: #fef9c3 }
.pad { background: #f4f4f5; color: #a1a1aa }
.suffix.trained { background: #bbf7d0; font-weight: 600 } .wrong { background: #dc2626; color: #fff; font-weight: 600 }
.refused { color: #b91c1c } .warned { color: #92400e }
"""


def page(rows: Sequence[Row], findings: Sequence[Finding] = (), *, title: str = "Training examples") -> str:
    """The whole page."""
    legend = " ".join(
        f'<span class="t {kind}">{word}</span>'
        for kind, word in (
            ("image", "image"), ("prefix", "prompt"), ("suffix trained", "answer, trained"),
            ("suffix", "answer, not trained"), ("pad", "padding"), ("wrong", "trained, but must not be"),
        )
    )  # fmt: skip
    head = (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n<h1>{_text(title)}</h1>\n"
        f"<p>{legend}</p>\n<p>The first rows as the loader gives them. Hold the pointer over a token for its id.</p>\n"
    )
    return head + "".join(_row(row, findings) for row in rows) + "</html>\n"


def _row(row: Row, findings: Sequence[Finding]) -> str:
    about = "".join(
        f'<p class="{"refused" if found.refused else "warned"}">{_text(found.sentence)}</p>\n'
        for found in findings
        if found.id == row.id
    )
    shown = "".join(_picture(pixels, row) for pixels in row.pictures)
    tokens = "".join(_run(part, trained, tokens) for part, trained, tokens in row.runs())
    return (
        f'<h2>{_text(row.id)}</h2>\n{about}<div class="row">{shown}<div class="tokens" dir="ltr">{tokens}</div></div>\n'
    )


def _run(part: str, trained: bool, tokens: Sequence[Token]) -> str:
    kind = part if not trained else "suffix trained" if part == "suffix" else "wrong"
    if part in ("image", "pad"):
        return f'<span class="t {kind}" title="id {tokens[0].id}">{_text(tokens[0].piece)} &times; {len(tokens)}</span>'
    return "".join(
        f'<span class="t {kind}" title="id {token.id}, {WORDS[token.part]}">{_text(printable(token.piece))}</span>'
        for token in tokens
    )


def _picture(pixels: Tensor, row: Row) -> str:
    """What the model sees, and the boxes of a row with one picture."""
    image = picture(pixels)
    side = min(SIDE_PX, image.width)
    data = io.BytesIO()
    image.resize((side, side)).save(data, "JPEG", quality=JPEG_QUALITY)
    source = base64.b64encode(data.getvalue()).decode("ascii")
    boxes = _boxes(row) if len(row.pictures) == 1 else ""
    size = f'width="{SIDE_PX}" height="{SIDE_PX}"'
    return f'<div class="shown"><img {size} alt="" src="data:image/jpeg;base64,{source}">{boxes}</div>'


def _boxes(row: Row) -> str:
    found, _ = text_to_boxes(row.text("suffix"), (_UNIT, _UNIT))
    labels = list(dict.fromkeys(box.label for box in found))
    drawn = []
    for box in found:
        y1, x1, y2, x2 = (round(_UNIT * edge, 1) for edge in box.box_yxyx_norm)
        color = "#{:02x}{:02x}{:02x}".format(*COLORS[labels.index(box.label) % len(COLORS)])
        drawn.append(
            f'<rect x="{x1}" y="{y1}" width="{round(x2 - x1, 1)}" height="{round(y2 - y1, 1)}" fill="none" '
            f'stroke="{color}" stroke-width="9"><title>{_text(box.label)}</title></rect>'
        )
    return f'<svg viewBox="0 0 {_UNIT} {_UNIT}">{"".join(drawn)}</svg>' if drawn else ""


def _text(text: str) -> str:
    return escape(text, quote=True)
