"""Writes docs/cli.md from the command line itself: `python tools/cli_docs.py` rewrites it, `--check` only compares.

In: the help texts of the app. Out: one markdown page.
"""

import sys
from pathlib import Path

from paligemma.interfaces.cli.app import app

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"

HEAD = """\
<!-- Written by tools/cli_docs.py from the commands' own help; change that, then run it again. -->

# The command line

```console
paligemma detect "cat; dog" photo.jpg --save out/
paligemma ask "how many?" photo.jpg --json
paligemma caption *.jpg --model paligemma2-3b-mix-224 --json
find photos -name '*.jpg' | paligemma ocr -
```

"""

CONVENTIONS = """\
## Conventions

* Answers go to stdout; messages, warnings and progress go to stderr.
* `--json` prints exactly one JSON object on stdout. For one image it is the answer; for several images, or paths from
  stdin, it is `{"results": [...], "failed": n}` in input order. An error is an object too:
  `{"error": {"code": ..., "message": ...}}`, whole or in the place of the image it belongs to.
* `-` in the place of an image reads paths from stdin, one per line. A path that begins with a dash comes after `--`.
* A picture that cannot be read does not stop the others.
* `--save` takes one file (`.png`, `.jpg` ... the picture with the answer; `.json` and `.txt` the answer itself) or a
  directory, in which pictures keep their names. Inputs are never overwritten.
* On a terminal the text of one answer appears while it is made, and control characters in it are taken out.
* Nothing is ever downloaded but by `paligemma pull`. `NO_COLOR`, `HF_HOME`, `HF_HUB_OFFLINE` and `HF_TOKEN` are
  respected.
* The exit code tells what happened: [exit-codes.md](exit-codes.md).
"""


def page() -> str:
    """The whole page."""
    _, _, commands = app.generate_docs(output_format="markdown").partition("**Commands**:")
    body = "\n".join(line.rstrip() for line in commands.splitlines()).strip()
    return f"{HEAD}{CONVENTIONS}\n## Commands\n\n{body}\n"


def main() -> int:
    """Returns 1 when `--check` finds the page out of date."""
    if "--check" in sys.argv[1:]:
        current = PAGE.exists() and PAGE.read_text(encoding="utf-8") == page()
        if not current:
            print("docs/cli.md is out of date; run python tools/cli_docs.py", file=sys.stderr)
        return 0 if current else 1
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
