"""One number for one set of weights, whatever their file."""

import torch
from tests.oracle import TINY, draw_model

from paligemma.checkpoints import load_checkpoint, save
from paligemma.checkpoints.fingerprint import fingerprint
from paligemma.checkpoints.load import at_resolution


def test_formats_and_types_do_not_matter(tmp_path):
    model = draw_model(TINY[2])
    sha256 = fingerprint(model)
    save(model, tmp_path / "hf", dtype="bfloat16", layout="4.5x")
    save(model, tmp_path / "model.npz", format="big_vision")
    assert len(sha256) == 64
    assert fingerprint(load_checkpoint(tmp_path / "hf").model) == sha256
    assert fingerprint(load_checkpoint(tmp_path / "model.npz").model) == sha256


def test_another_resolution_has_the_same_weights():
    model = draw_model(TINY[2])
    assert fingerprint(at_resolution(model, 12)) == fingerprint(model)


def test_other_weights_have_another():
    sha256 = fingerprint(draw_model(TINY[2]))
    assert fingerprint(draw_model(TINY[2], seed=1)) != sha256
    assert fingerprint(draw_model(TINY[1])) != sha256
    model = draw_model(TINY[2])
    with torch.no_grad():
        model.projector.bias[-1] += 1
    assert fingerprint(model) != sha256
