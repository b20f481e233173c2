"""What may not stand in any file of the project, and what the library's code may not call."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SUFFIXES = {".py", ".md", ".toml", ".txt", ".yml", ".yaml", ".json", ".cfg", ".sh", ""}
ROOMS = ("src", "tests", "tools", "benchmarks", "examples", "docs", ".ci", ".github")
FORBIDDEN_TEXT = {
    "a path of one machine": r"(?<![\w.$}~-])/(?:work|root|home|Users|opt|mnt|data|srv)/[\w.]|[A-Z]:\\\\?Users",
    "the name of a package registry": r"pypi\.org|pythonhosted\.org|download\.pytorch\.org|index-url|find-links",
    "an unfinished place": r"\b(?:TODO|FIXME|XXX|HACK)\b",
    "a merge conflict": r"^(?:<{7}|>{7}) ",
}
PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}


def text_files():
    top = [path for path in ROOT.iterdir() if path.is_file() and path.suffix in SUFFIXES]
    below = [path for room in ROOMS for path in (ROOT / room).rglob("*") if path.is_file()]
    for path in sorted(top + below):
        golden = path.is_relative_to(ROOT / "tests" / "data")
        if path.suffix in SUFFIXES and not golden and "__pycache__" not in path.parts and path != Path(__file__):
            yield path


@pytest.mark.parametrize("what", FORBIDDEN_TEXT)
def test_no_file_holds(what):
    pattern = re.compile(FORBIDDEN_TEXT[what], re.MULTILINE)
    found = []
    for path in text_files():
        for match in pattern.finditer(path.read_text(errors="replace")):
            found.append(f"{path.relative_to(ROOT)}: {match.group()!r}")
    assert found == []


def unsafe_calls(source):
    """Sentences about every place that could run code out of a file."""
    for node in ast.walk(ast.parse(source)):
        names = {alias.name.split(".")[0] for alias in getattr(node, "names", []) if isinstance(alias, ast.alias)}
        if isinstance(node, ast.ImportFrom):
            names = {(node.module or "").split(".")[0]}
        for name in names & PICKLES:
            yield f"line {node.lineno}: imports {name}"
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called in {"eval", "exec", "compile", "__import__", "torch.load"} or called.endswith("torch_load"):
            yield f"line {node.lineno}: calls {called}"
        for keyword in node.keywords:
            harmless = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            if keyword.arg in {"allow_pickle", "trust_remote_code", "shell"} and not harmless:
                yield f"line {node.lineno}: {keyword.arg} is not False"


def test_the_library_runs_no_code_out_of_files():
    sources = sorted((ROOT / "src").rglob("*.py"))
    assert sources
    found = {str(path.relative_to(ROOT)): list(unsafe_calls(path.read_text())) for path in sources}
    assert {name: calls for name, calls in found.items() if calls} == {}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "eval('1')",
        "torch.load(path)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=flag)",
        "load(trust_remote_code=True)",
        "subprocess.run(line, shell=True)",
    ],
)
def test_unsafe_lines_are_found(line):
    assert list(unsafe_calls(line))


@pytest.mark.parametrize(
    "line", ["model.eval()", "np.load(path, allow_pickle=False)", "torch.compile(f)", "re.compile(p)"]
)
def test_safe_lines_are_not(line):
    assert not list(unsafe_calls(line))
