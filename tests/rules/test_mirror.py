"""Each source file has its test file, in the same place: src/paligemma/a/b.py -> tests/a/test_b.py.

What does not fit one test file goes to tests/a/test_b_*.py. `a/__init__.py` -> tests/a/test_init.py, unless it only
hands names on. Whole-package tests live in tests/rules and tests/end_to_end, helpers and data beside them.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "src" / "paligemma"
TESTS = ROOT / "tests"
NOT_MIRRORED = {"rules", "end_to_end", "data"}


def hands_names_on(source):
    """True for a file of imports, a docstring, dunder names and `if __name__ == "__main__"`."""
    return all(
        isinstance(node, ast.Import | ast.ImportFrom)
        or (isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'")
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        or (isinstance(node, ast.Assign) and all(getattr(t, "id", "").startswith("__") for t in node.targets))
        for node in ast.parse(source).body
    )


def expected_tests():
    for source in sorted(SOURCES.rglob("*.py")):
        if source.name in ("__init__.py", "__main__.py") and hands_names_on(source.read_text()):
            continue
        yield TESTS / source.relative_to(SOURCES).with_name(f"test_{source.stem.strip('_')}.py")


def has_a_test(path):
    return any(isinstance(n, ast.FunctionDef) and n.name.startswith("test_") for n in ast.parse(path.read_text()).body)


def test_each_source_file_has_its_tests():
    missing = [str(p.relative_to(ROOT)) for p in expected_tests() if not p.exists() or not has_a_test(p)]
    assert missing == []


def test_each_test_file_has_its_source():
    expected = {str(path.with_suffix("")) for path in expected_tests()}
    found = [p for p in sorted(TESTS.rglob("test_*.py")) if p.relative_to(TESTS).parts[0] not in NOT_MIRRORED]
    stale = [str(p.relative_to(ROOT)) for p in found if not is_test_of(str(p.with_suffix("")), expected)]
    assert stale == []


def is_test_of(test, expected):
    return test in expected or any(test.startswith(f"{name}_") for name in expected)


def test_what_counts_as_handing_names_on():
    assert hands_names_on('"""Doc."""\nfrom a import b\n__all__ = ["b"]\n__version__ = "1"')
    assert not hands_names_on("def f(): ...")
    assert not hands_names_on("from a import b\nTABLE = {1: b}")
