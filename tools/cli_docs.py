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
paligemma detect "cat; dog" photo.jpg --save boxes.png
paligemma segment "cat" photos/ --recursive --save out/ --save-mask masks/ --format coco --out coco.json
paligemma ask "how many?" "photos/*.jpg" --jsonl
paligemma caption clip.mp4 --fps 0.5
find photos -name '*.jpg' | paligemma ocr -
```

[command-line.md](command-line.md) is the guide with examples; this page lists every option.

"""

CONVENTIONS = """\
## Conventions

* Answers go to stdout; messages, warnings and the progress bar go to stderr. `--quiet` leaves errors only, `--verbose`
  adds times, tokens, scores and the details of warnings.
* A source is a file, a folder (its pictures by name; `--recursive` for those below), a pattern in quotes, a video, `-`,
  or with `--allow-url` an address. A path that begins with a dash comes after `--`.
* `-` reads paths from stdin, one per line and as they come, or one picture, recognised by its first bytes.
* A video gives one answer per frame, one frame per second unless `--stride`, `--fps` or `--frames` says otherwise, or
  with `--clip` one answer for all of its frames. Given one of these, videos in folders and animated pictures count too.
* `--allow-url` downloads from public hosts only: each address is looked up once, checked and dialled as checked, after
  every redirect again; at most 64 MiB and a minute.
* A picture that cannot be used is told in a sentence and does not stop the others: exit code 9, or 4 if all failed.
* `--json` prints exactly one JSON object on stdout. For one image it is the answer; for a list (several images, a
  folder, a pattern, a video, paths from stdin) it is `{"results": [...], "failed": n}` in input order. An error is an
  object too: `{"error": {"code": ..., "message": ...}}`, whole, in the place of the image it belongs to, or behind the
  results where it ended the work early. `--jsonl` prints one object per line as soon as it is known.
* `--out` writes the answers to a file, which takes its place when it is whole. Ctrl-C keeps what is answered by then.
* `--save` takes one file (`.png`, `.jpg` ... the picture with the answer; `.json`, `.csv` and `.txt` the answer itself)
  or a directory, in which pictures keep their names and their places below the source folder. Pictures of one name get
  `-2`, `-3`. No input is ever overwritten: a directory that pictures are read from is refused.
* On a terminal the text of one answer appears while it is made, and control characters in it are taken out.
* Nothing is ever downloaded but by `paligemma pull` and `--allow-url`. `NO_COLOR`, `FORCE_COLOR`, `HF_HOME`,
  `HF_HUB_OFFLINE` and `HF_TOKEN` are respected.
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
