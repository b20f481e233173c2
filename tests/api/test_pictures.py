"""What counts as a picture."""

import io

import numpy as np
import pytest
from tests.api.helpers import picture

from paligemma.api import Images
from paligemma.errors import InputError
from paligemma.results import Answer


def test_every_kind_of_picture(model, says, tmp_path):
    says("x")
    path = tmp_path / "a.png"
    picture().save(path)
    kinds = [str(path), path, path.read_bytes(), io.BytesIO(path.read_bytes()), picture(), np.asarray(picture())]
    answers = model.ocr(kinds)
    assert [a.image_size_px for a in answers] == [(60, 40)] * len(kinds)
    assert [a.paths for a in answers[:3]] == [(str(path),), (str(path),), (None,)]
    assert [a.image_size_px for a in model.ocr(p for p in [path])] == [(60, 40)]
    assert isinstance(model.ocr(io.BytesIO(path.read_bytes())), Answer)


@pytest.mark.parametrize("nothing", [None, Images(), [None], [[]], [()]])
def test_a_prompt_without_picture_is_a_clear_error(model, nothing):
    with pytest.raises(InputError, match="no picture; PaliGemma answers about pictures"):
        model.ask(nothing, "hello?")


def test_a_missing_file_is_a_clear_error(model, tmp_path):
    with pytest.raises(InputError):
        model.caption(tmp_path / "none.png")
