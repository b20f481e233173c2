import pytest
import torch
from tests.oracle import TINY, draw_model

from paligemma.checkpoints.tensors import (
    ModelTensors,
    as_dtype,
    check_strictly,
    common_dtype,
    empty_model,
    look_alike,
    parameter_shapes,
    same_architecture,
)
from paligemma.config import VARIANTS, Config, nano
from paligemma.errors import CheckpointError, UsageError


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("bf16", torch.bfloat16),
        ("float16", torch.float16),
        ("torch.float32", torch.float32),
        (torch.float16,) * 2,
        (None, None),
    ],
)
def test_types_have_several_names(given, expected):
    assert as_dtype(given) == expected


@pytest.mark.parametrize("wrong", ["bfloat", torch.int8, "int4"])
def test_other_types_are_refused(wrong):
    with pytest.raises(UsageError, match="unknown weight type"):
        as_dtype(wrong)


def test_mixed_files_are_read_without_loss():
    model = draw_model(TINY[1]).to(torch.bfloat16)
    assert common_dtype(ModelTensors(model)) == torch.bfloat16
    model.projector.half()
    assert common_dtype(ModelTensors(model)) == torch.float32


def test_an_empty_model_takes_no_memory():
    model = empty_model(Config.of("paligemma2-28b-mix-448"))
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert not model.training
    assert not list(model.buffers())  # a buffer would stay on the meta device for ever


@pytest.mark.parametrize("name", ["paligemma-3b-pt-896", "paligemma2-10b-mix-448", "paligemma2-28b-pt-224"])
def test_dimensions_name_the_published_model(name):
    config = VARIANTS[name].config
    found = look_alike(
        vision_width=config.vision.width, text_width=config.text.width, text_depth=config.text.depth,
        image_size_px=config.vision.image_size_px,
    )  # fmt: skip
    assert found == f"{'-'.join(name.split('-')[:2])} at {config.vision.image_size_px} px"
    assert look_alike(vision_width=1, text_width=2, text_depth=3, image_size_px=14) is None


def test_same_architecture_ignores_padding_and_how_the_scale_is_written():
    text = nano(112).to_dict()
    text["text"]["query_scale_dim"] = 32.0
    assert same_architecture(nano(112), Config.from_dict(text).with_padding_rows())
    text["text"]["query_scale_dim"] = 33.0
    assert not same_architecture(nano(112), Config.from_dict(text))


def test_ten_names_are_shown_at_most():
    source = ModelTensors(draw_model(TINY[1]))
    shapes = parameter_shapes(TINY[1])
    check_strictly(shapes, source, "it")
    with pytest.raises(CheckpointError) as caught:
        check_strictly(shapes | {f"more.{i}": (1,) for i in range(30)}, source, "it")
    assert str(caught.value).count("more.") == 10
    assert "30 missing" in str(caught.value)
    wrong = {name: (*shape, 1) for name, shape in shapes.items()}
    with pytest.raises(CheckpointError) as caught:
        check_strictly(wrong | {"more.0": (1,), "more.1": (1,)}, source, "it")
    assert "2 missing (more.0, more.1)" in str(caught.value)
    assert str(caught.value).count(" instead of ") == 5
