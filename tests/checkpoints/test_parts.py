"""Which matrices are kept in which method: what a user may ask, what a file says, which names that means."""

import pytest

from paligemma.checkpoints.parts import PARTS, method_of, methods_of, part_of, spelled
from paligemma.checkpoints.tensors import parameter_shapes
from paligemma.config import VARIANTS
from paligemma.errors import UsageError
from paligemma.linear.packed import METHODS


@pytest.mark.parametrize("method", METHODS)
def test_one_method_for_all(method):
    found = methods_of(method)
    assert list(found) == list(PARTS)
    assert found["lm"] == found["head"] == method
    assert found["vision"] == (method if METHODS[method].bits == 8 else "int8")


def test_a_method_for_each_part():
    assert (
        methods_of("lm=int4, head=int8") == {"lm": "int4", "head": "int8"} == methods_of({"lm": "int4", "head": "int8"})
    )


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("int5", "int4|int8"),
        ("lm=int5", "unknown"),
        ("llm=int4", "lm"),
        ("lm=int4,head", "head"),
        ({}, "no part"),
        ("lm=int4,lm=int8", "twice"),
        ("", "unknown"),
    ],
)
def test_what_is_no_choice(wrong, said):
    with pytest.raises(UsageError, match=said):
        methods_of(wrong)


@pytest.mark.parametrize("asked", ["int4", "head=nf4,vision=int8", "lm=int8"])
def test_spelled_is_read_back(asked):
    assert methods_of(spelled(methods_of(asked))) == methods_of(asked)


def test_the_order_of_parts_is_always_the_same():
    assert list(methods_of("head=int4,vision=int8,lm=nf4")) == list(PARTS)


@pytest.mark.parametrize("variant", ["paligemma-3b-pt-224", "paligemma2-3b-pt-448", "nano-pt-112"])
def test_every_matrix_but_the_projectors_belongs_to_a_part(variant):
    shapes = parameter_shapes(VARIANTS[variant].config)
    plain = {name for name, shape in shapes.items() if method_of(name, shape, methods_of("int4")) is None}
    assert {name for name in plain if name.endswith(".weight") and len(shapes[name]) == 2} == {"projector.weight"}
    assert part_of("vision_tower.layers.3.mlp.fc2") == "vision"
