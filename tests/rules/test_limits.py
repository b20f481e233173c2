"""No file over 500 lines, no function over 60."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("src", "tests", "tools", "benchmarks", "examples")
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60


def python_files():
    files = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
    assert len(files) > 10, "the rooms have moved; this test looks at nothing"
    return files


def long_functions(source):
    """(name, lines) of each function over the limit, from its `def` to its last line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                yield node.name, lines


def test_files_are_short():
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in python_files()}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_FILE_LINES} == {}


def test_functions_are_short():
    too_long = {str(path.relative_to(ROOT)): list(long_functions(path.read_text())) for path in python_files()}
    assert {name: found for name, found in too_long.items() if found} == {}


def test_a_long_function_would_be_found():
    body = "\n    x = 1" * MAX_FUNCTION_LINES
    assert list(long_functions(f"def fine():{body[: -len('    x = 1') - 1]}")) == []
    assert list(long_functions(f"class A:\n  async def f():{body}")) == [("f", 61)]
