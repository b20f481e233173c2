import pytest

from paligemma.errors import EXIT_BUG, InputError
from paligemma.interfaces.cli.options import STDIN
from paligemma.interfaces.cli.report import describe


def test_our_own_errors_are_told_as_they_are_with_the_dash_the_user_typed():
    assert describe(InputError(f"`{STDIN}` is empty")) == ("bad_input", 4, "`-` is empty")


@pytest.mark.parametrize("error", [ValueError("x" * 5000), KeyError("a\nb")])
def test_a_bug_is_one_line_of_bounded_length(error):
    code, status, sentence = describe(error)
    assert (code, status) == ("bug", EXIT_BUG)
    assert "\n" not in sentence
    assert len(sentence) < 500
    assert "--traceback" in sentence


def test_out_of_memory_says_what_helps():
    assert describe(MemoryError())[0] == "resources"
    assert "--batch-size" in describe(MemoryError())[2]
