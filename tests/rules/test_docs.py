"""The documentation is true: its commands and examples run, its tables equal the code, its links lead somewhere.

Every ```bash and ```python block of README.md and docs/*.md runs, in order, in a temporary directory that holds a copy
of examples/. `<!-- not run: reason -->` on the line before exempts one. A ```text block right after a block is its
expected output: spaces do not count, and `...` stands for anything.
"""

import doctest
import fnmatch
import itertools
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from paligemma import errors
from paligemma.config import VARIANTS

ROOT = Path(__file__).parents[2]
RUN_DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    where: str  # README.md:12
    language: str
    code: str
    output: str | None


def blocks(path):
    """The blocks of one document that run."""
    text = path.read_text()
    fences = list(FENCE.finditer(text))
    for fence, after in itertools.zip_longest(fences, fences[1:]):
        lines_before = text[: fence.start()].rstrip("\n").rsplit("\n", 1)
        if fence[1] not in ("bash", "python") or lines_before[-1].startswith("<!-- not run: "):
            continue
        shows_output = after is not None and after[1] == "text" and not text[fence.end() : after.start()].strip()
        line = text.count("\n", 0, fence.start()) + 1
        yield Block(f"{path.name}:{line}", fence[1], fence[2], after[2] if shows_output else None)


BLOCKS = [pytest.param(path, block, id=block.where) for path in RUN_DOCS for block in blocks(path)]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """One directory per document, so that a block finds what an earlier one wrote."""
    places = {}

    def place(name):
        if name not in places:
            places[name] = tmp_path_factory.mktemp("docs")
            if (ROOT / "examples").exists():
                shutil.copytree(ROOT / "examples", places[name] / "examples")
        return places[name]

    return place


def run(command, cwd, code=None):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    result = subprocess.run(
        command, input=code, cwd=cwd, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert result.returncode == 0, f"{code or command}\n{result.stdout}{result.stderr}"
    return result.stdout


def same_output(want, got):
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    return doctest.OutputChecker().check_output(want.strip() + "\n", got.strip() + "\n", flags)


@pytest.mark.parametrize(("path", "block"), BLOCKS)
def test_blocks_run(path, block, workplace):
    command = ["bash", "-euo", "pipefail", "-s"] if block.language == "bash" else [sys.executable, "-"]
    printed = run(command, workplace(path.name), block.code)
    if block.output is not None:
        assert same_output(block.output, printed), f"{block.where} says:\n{block.output}\nbut it prints:\n{printed}"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_examples_run(example, workplace):
    assert run([sys.executable, f"examples/{example.name}"], workplace("examples")).strip()


def test_there_are_examples():
    assert EXAMPLES


def test_the_readme_shows_shell_and_python():
    readme = list(blocks(ROOT / "README.md"))
    assert {block.language for block in readme} == {"bash", "python"}


def test_nothing_waits_to_be_filled_in():
    assert [path.name for path in RUN_DOCS if "<!-- fill" in path.read_text()] == []


def test_links_lead_somewhere():
    broken = []
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)", path.read_text()):
            if "://" not in target and not target.startswith("mailto:") and not (path.parent / target).exists():
                broken.append(f"{path.relative_to(ROOT)}: {target}")
    pending = "README.md: docs/images/demo.png"
    if "<!-- fill: docs/images/demo.png" in (ROOT / "README.md").read_text():
        broken.remove(pending)
    assert broken == []


def table(path, heading):
    """The rows below the header of the first table whose first column is called `heading`, as lists of cells."""
    lines = iter(path.read_text().splitlines())
    for line in lines:
        if line.startswith(f"| {heading} |"):
            next(lines)
            rows = itertools.takewhile(lambda row: row.startswith("|"), lines)
            return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    raise AssertionError(f"{path.name} has no table that starts with {heading}")


def test_the_exit_codes_are_those_of_the_code():
    documented = {}
    for code, name, _, classes, *_ in table(ROOT / "docs" / "exit-codes.md", "code"):
        documented[int(code)] = (name.strip("`"), set(re.findall(r"`(\w+)`", classes)))
    for name, value in vars(errors).items():
        if name.startswith("EXIT_"):
            assert documented[value][0] == name
        if isinstance(value, type) and issubclass(value, errors.PaliGemmaError) and value is not errors.PaliGemmaError:
            assert name in documented[value.exit_status][1]
    for name, classes in documented.values():
        assert name == "-" or hasattr(errors, name)
        assert all(hasattr(errors, known) for known in classes)


def expand(pattern):
    """a-{b,c}-{d,e} -> a-b-d, a-b-e, a-c-d, a-c-e."""
    parts = re.split(r"\{([^}]*)\}", pattern)
    choices = [part.split(",") if i % 2 else [part] for i, part in enumerate(parts)]
    return ["".join(chosen) for chosen in itertools.product(*choices)]


def test_the_readme_lists_every_variant():
    seen = []
    for names, parameters, *_ in table(ROOT / "README.md", "name"):
        for pattern in expand(names.strip("`")):
            matching = fnmatch.filter(VARIANTS, pattern)
            assert matching, f"{pattern} matches no variant"
            seen += matching
            for name in matching:
                count = VARIANTS[name].parameters
                assert parameters == (f"{count / 1e9:.1f} B" if count > 1e9 else f"{count / 1e6:.1f} M"), name
    assert sorted(seen) == sorted(VARIANTS)


def test_the_readme_shows_every_room():
    source = ROOT / "src" / "paligemma"
    rooms = {f"{p.name}/" if p.is_dir() else p.name for p in source.iterdir() if not p.name.startswith("_")}
    rooms -= {"py.typed"}  # a marker for type checkers
    readme = (ROOT / "README.md").read_text()
    tree = re.search(r"^src/paligemma/\n(.*?)^\w", readme, re.MULTILINE | re.DOTALL)
    assert tree, "README.md has no tree that starts with src/paligemma/"
    shown = set(re.findall(r"^  (\w\S*)  +\S", tree[1], re.MULTILINE))
    missing = sorted(rooms - shown)
    assert missing == [], "rooms without their line in README.md"


def test_blocks_are_found(tmp_path):
    document = tmp_path / "page.md"
    shown = "```bash\necho a\n```\n\n```text\na\n```\n"
    exempt = "<!-- not run: slow -->\n```bash\nfalse\n```\n"
    document.write_text(shown + exempt + "```python\n1\n```\ntext\n```json\n{}\n```\n")
    assert list(blocks(document)) == [
        Block("page.md:1", "bash", "echo a\n", "a\n"),
        Block("page.md:12", "python", "1\n", None),
    ]


def test_outputs_are_compared():
    assert same_output("a  b\n0.9...\n", "a b\n0.93 1\n")
    assert not same_output("a\n", "b\n")
    assert not same_output("", "b\n")
