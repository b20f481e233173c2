import pytest

from paligemma import errors
from paligemma.errors import PaliGemmaError

CLASSES = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, PaliGemmaError)]


def test_every_class_has_its_own_code():
    assert len(CLASSES) >= 7
    assert len({error.code for error in CLASSES}) == len(CLASSES)


@pytest.mark.parametrize("error", CLASSES)
def test_every_error_is_caught_as_the_one_users_meet_and_keeps_its_sentence(error):
    with pytest.raises(PaliGemmaError, match="found a, expected b; do c") as caught:
        raise error("found a, expected b; do c")
    assert caught.value.exit_status not in (0, errors.EXIT_BUG)


def test_each_concrete_class_has_its_own_exit_status():
    statuses = [error.exit_status for error in CLASSES if error is not PaliGemmaError]
    assert len(set(statuses)) == len(statuses)


def test_wrong_arguments_are_value_errors_too():
    assert issubclass(errors.UsageError, ValueError)
    assert issubclass(errors.InputError, ValueError)
    assert not issubclass(errors.CheckpointError, ValueError)
