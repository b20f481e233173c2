from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from paligemma.errors import UnavailableError
from paligemma.model import fused
from paligemma.model.fused import compiled, fusible, kernels, linear_kernels, plain

FOUND = SimpleNamespace(name="the kernels")


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "_installed", lambda: FOUND)
    monkeypatch.setattr(fused, "_wanted", True)


def tensor(*shape: int, dtype: torch.dtype = torch.bfloat16, cuda: bool = True) -> Any:
    """As much of a tensor as is asked for."""
    real = torch.empty(*shape)
    return SimpleNamespace(is_cuda=cuda, dtype=dtype, numel=real.numel, shape=real.shape)


def test_kernels_take_half_numbers_on_cuda_without_gradients_only() -> None:
    assert kernels(tensor(2, 3)) is None, "gradients may be wanted"
    with torch.inference_mode():
        assert kernels(tensor(2, 3)) is FOUND
        assert kernels(tensor(2, 3, dtype=torch.float16)) is FOUND
        assert kernels(tensor(2, 3, dtype=torch.float32)) is None
        assert kernels(tensor(2, 3, cuda=False)) is None
        with plain():
            assert kernels(tensor(2, 3)) is None
        assert kernels(tensor(2, 3)) is FOUND


def test_one_row_and_plain_matrices_go_to_the_kernel_of_rows() -> None:
    half = nn.Linear(3, 4, bias=False, dtype=torch.bfloat16)
    with torch.inference_mode():
        assert linear_kernels(tensor(1, 1, 3), half, half) is FOUND
        assert linear_kernels(tensor(2, 1, 3), half) is None
        assert linear_kernels(tensor(1, 3), half, nn.Linear(3, 4, dtype=torch.bfloat16)) is None, "a bias"
        assert linear_kernels(tensor(1, 3), nn.Linear(3, 4, bias=False)) is None, "another type"
        assert linear_kernels(tensor(1, 3), nn.Sequential(half)) is None, "another layer"


def test_without_triton_everything_goes_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    fused._installed.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "triton", None)
    monkeypatch.delitem(__import__("sys").modules, "paligemma.model.triton_kernels", raising=False)
    with torch.inference_mode():
        assert kernels(tensor(1, 3)) is None
    fused._installed.cache_clear()


@fusible
def bent(x: torch.Tensor, much: float) -> torch.Tensor:
    return (x * much).tanh() * x


@pytest.mark.filterwarnings("ignore")  # torch's own, on loading its compiler
def test_compiled_functions_give_the_same_values_and_gradients_for_all_shapes() -> None:
    for shape in ((3, 5), (7, 2)):
        x, same = (torch.linspace(-2, 2, shape[0] * shape[1]).view(shape).requires_grad_() for _ in range(2))
        with compiled():
            fast = bent(x, 0.5)
            fast.sum().backward()
        slow = bent(same, 0.5)
        slow.sum().backward()
        torch.testing.assert_close(fast, slow)
        torch.testing.assert_close(x.grad, same.grad)


def test_only_what_is_learnt_from_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", None)  # calling it fails
    fresh = fusible(lambda x: x + 1)
    assert fresh(torch.ones(1)) == 2
    with compiled(), torch.no_grad():
        assert fresh(torch.ones(1)) == 2
    with compiled(False):
        assert fresh(torch.ones(1)) == 2
    with compiled(), pytest.raises(TypeError):
        fresh(torch.ones(1))


def test_a_machine_that_cannot_compile_is_told_in_one_sentence() -> None:
    from torch._inductor.exc import InductorError, InvalidCxxCompiler

    with pytest.raises(UnavailableError, match=r"torch cannot compile here .* leave compile out"), compiled():
        raise InductorError(InvalidCxxCompiler(), None)
