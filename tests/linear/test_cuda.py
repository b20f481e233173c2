"""Who gets kernels on CUDA; that they are right is shown in test_triton_packed.py."""

import pytest
import torch

from paligemma.linear import cuda
from paligemma.linear.packed import METHODS, PackedLinear


def test_a_cpu_and_missing_kernels_leave_the_product_to_others(monkeypatch):
    layer, x = PackedLinear.pack("int4", torch.randn(5, 70)), torch.randn(2, 70, dtype=torch.bfloat16)
    given = {"outputs": 5, "group": layer.kind.group, "levels": layer.kind.levels}
    assert not cuda.takes(x, layer.codes)
    assert cuda.packed_product(x, layer.codes, layer.scales, None, **given) is None
    monkeypatch.setattr(cuda, "takes", lambda x, codes: True)
    monkeypatch.setattr(cuda, "kernels", lambda: None)
    assert cuda.packed_product(x, layer.codes, layer.scales, None, **given) is None


def test_kernels_can_be_left_out(monkeypatch):
    monkeypatch.setenv("PALIGEMMA_NATIVE", "0")
    cuda._module.cache_clear()
    try:
        assert cuda.kernels() is None
    finally:
        cuda._module.cache_clear()


@pytest.mark.parametrize("method", METHODS)
def test_levels_are_made_once_and_may_be_trained_beside(method):
    levels = METHODS[method].levels
    if levels is None:
        return
    with torch.inference_mode():
        made = cuda.levels_on(levels, torch.device("cpu"))
    assert made.tolist() == list(levels)
    assert not made.is_inference()
    assert cuda.levels_on(levels, torch.device("cpu")) is made
