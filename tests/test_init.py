"""The package's table of contents: every name leads somewhere, and none of them is loaded before it is used."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import paligemma

HEAVY = ("torch", "numpy", "PIL", "tokenizers")


@pytest.mark.parametrize("name", paligemma.__all__)
def test_every_name_leads_somewhere(name):
    assert getattr(paligemma, name) is not None
    assert name in dir(paligemma)


def test_what_type_checkers_see_is_what_there_is():
    tree = ast.parse(Path(paligemma.__file__).with_suffix(".pyi").read_text())
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    typed = {alias.asname: node.module for node in imports for alias in node.names}
    assert typed == {name: f"paligemma.{room}" for name, room in paligemma._ROOMS.items()}


def test_an_unknown_name_is_the_usual_error():
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        paligemma.lod  # noqa: B018


@pytest.mark.parametrize("line", ["import paligemma", "import paligemma; paligemma.VARIANTS; paligemma.PaliGemmaError"])
def test_light_names_load_nothing_heavy(line):
    code = f"{line}; import sys; print([m for m in {HEAVY} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_results_need_no_torch():
    code = "import paligemma, sys; paligemma.Box, paligemma.open_image; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
