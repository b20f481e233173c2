"""Where a model is and how much of it: options that do not go together, and layers that wait."""

import pytest
import torch
from tests.oracle import TINY, draw_model
from tests.train.test_distributed import together

import paligemma
from paligemma.api import building
from paligemma.errors import ResourceError, UsageError
from paligemma.model.offload import is_streamed

CPU = torch.device("cpu")
SCENE = "examples/scene.png"


@pytest.fixture(scope="module")
def said():
    return paligemma.load().caption(SCENE).text


@pytest.mark.parametrize("offload", [2, 3, 6])
def test_layers_that_wait_say_the_same(said, offload):
    model = paligemma.load(offload=offload)
    assert model.caption(SCENE).text == said
    (note,) = [note for note in model.notes if note.code == "offload"]
    assert f"{offload} of 6 layers wait" in str(note)


def test_waiting_layers_may_be_packed():
    packed, waiting = paligemma.load(quantize="int8"), paligemma.load(quantize="int8", offload=4)
    assert waiting.caption(SCENE).text == packed.caption(SCENE).text


def test_a_processor_keeps_all_layers(said):
    model = paligemma.load(device="cpu", offload="auto")
    assert not is_streamed(model.model)
    assert model.caption(SCENE).text == said


@pytest.mark.parametrize("wrong", ["some", "3", True, 2.0])
def test_neither_a_number_nor_auto(wrong):
    with pytest.raises(UsageError, match="a number of layers or auto"):
        paligemma.load(offload=wrong)


def test_as_few_layers_wait_as_must(monkeypatch):
    """Less and less memory lets more and more of them wait, until the rest alone is too much."""
    model, card = draw_model(TINY[2]), torch.device("cuda")
    monkeypatch.setattr(building, "cache_bytes", lambda *given: 0)
    monkeypatch.setattr(building, "activation_bytes", lambda *given: 0)
    monkeypatch.setattr(building, "usable", lambda size: size)
    whole = sum(p.nbytes for p in model.parameters())
    layer = sum(p.nbytes for p in model.language_model.layers[0].parameters())

    def waiting(free):
        monkeypatch.setattr(building, "free_memory", lambda device: free)
        return building._waiting(model, card)

    assert waiting(whole) == 0
    assert waiting(whole - 1) == waiting(whole - layer) == 3  # two of them have places
    with pytest.raises(ResourceError, match="even with all 3 layers"):
        waiting(whole - layer - 1)


@pytest.mark.parametrize("other", [{"quantize": "int8"}, {"adapter": "x"}, {"offload": 2}])
def test_shared_weights_are_plain(other):
    with pytest.raises(UsageError, match="was asked for with parallel=tensor"):
        paligemma.load(parallel="tensor", **other)


def test_two_processes_say_what_one_says(said, tmp_path):
    def share(rank):
        model = paligemma.load(device="cpu", parallel="tensor")
        assert model.model.config.text.num_kv_heads == 1
        assert model.caption(SCENE).text == said

    together(share, tmp_path)


def test_quantised_files_cannot_be_shared(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(building, "chosen_methods", lambda opened, quantize: {"lm": "int4"})
    with pytest.raises(UsageError, match="is quantised, which cannot be shared"):
        paligemma.load(device="cpu", parallel="tensor")


def test_sharing_needs_others(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(UsageError, match="torchrun"):
        paligemma.load(parallel="tensor")
    with pytest.raises(UsageError, match="did you mean 'tensor'"):
        paligemma.load(parallel="tensors")
