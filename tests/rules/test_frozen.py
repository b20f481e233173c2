"""The public names and the command line's options change on purpose only.

`make freeze` writes the present ones to frozen.json; its diff is what a reviewer, and the changelog, get to see.
"""

import json
from pathlib import Path

FROZEN = Path(__file__).with_name("frozen.json")


def options(app):
    """{"verb": ["--option", ...], "verb subverb": ...} of a cyclopts app and those below it; "" is itself."""
    found = {}
    if app.default_command is not None:
        names = {name for argument in app.assemble_argument_collection() for name in argument.names}
        found[""] = sorted(names - {"*"})  # "*" stands for a group whose options are listed themselves
    for name in app:
        if not name.startswith("-"):
            below = options(app[name])
            found.update({f"{name} {rest}".strip(): names for rest, names in below.items()})
    return found


def present():
    import paligemma
    from paligemma.interfaces.cli.app import app

    return {"names": sorted(paligemma.__all__), "commands": dict(sorted(options(app).items()))}


def test_public_names_and_options_are_the_frozen_ones():
    assert present() == json.loads(FROZEN.read_text()), "changed on purpose? `make freeze`, and a line in CHANGELOG.md"


def test_every_public_name_exists():
    import paligemma

    assert [name for name in paligemma.__all__ if not hasattr(paligemma, name)] == []


def test_options_of_nested_commands_are_found():
    from cyclopts import App

    app, inner = App(name="outer"), App(name="inner")

    def run(image: str, *, save: str = "", json: bool = False):
        pass

    app.command(inner)
    app.command(run)
    inner.command(run, name="again")
    names = ["--image", "--json", "--no-json", "--save"]
    assert options(app) == {"run": names, "inner again": names}


if __name__ == "__main__":
    FROZEN.write_text(json.dumps(present(), indent=1) + "\n")
