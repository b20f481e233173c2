"""Each kernel beside plain PyTorch in float64; on an accelerator only, where Triton is."""

import pytest
import torch
import torch.nn.functional as F

from paligemma.model.fused import plain
from paligemma.model.layers import AttentionMask, RMSNorm, add_and_norm, attend, rotary_angles, rotate

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator on this machine"),
]
TYPES = [torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    with torch.inference_mode():
        yield


def draw(*shape, dtype):
    return torch.randn(*shape, device="cuda").to(dtype)


def close(got, want):
    assert got.shape == want.shape
    error = (got.double() - want).norm() / want.norm()
    assert error < 8e-3, f"{error} away"  # NaN is not below


def both(run, *tensors):
    """With the kernels, and in float64 without."""
    with plain():
        want = run(*(tensor.double() for tensor in tensors))
    return run(*tensors), want


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("width", [36, 2304, 4608])
def test_norms(dtype, width):
    one, two = (RMSNorm(width, 1e-6).cuda() for _ in range(2))
    for norm in (one, two):
        norm.weight.data.normal_(0, 0.3)
    x, y = draw(3, 5, width, dtype=dtype), draw(3, 5, width, dtype=dtype)
    close(*both(one, x))
    for post in (one, None):
        for after in (two, None):
            got, want = both(lambda a, b, p=post, n=after: torch.stack(add_and_norm(a, b, p, n)), x, y)
            close(got, want)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("heads", "head_dim"), [(3, 12), (8, 256), (32, 128)])
def test_rotations(dtype, heads, head_dim):
    x = draw(2, 7, heads * head_dim, dtype=dtype).unflatten(-1, (heads, head_dim)).transpose(1, 2)
    angles = rotary_angles(torch.randint(0, 900, (2, 7), device="cuda"), head_dim, 10_000.0)
    close(*both(lambda a: rotate(a, angles), x))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(1, 2304, (2048, 1024, 1024)), (1, 9216, (2304,)), (1, 600, (70, 9, 33))])
def test_matrices_and_gates(dtype, shape):
    from paligemma.model import triton_kernels as kernels

    rows, width, counts = shape
    x = draw(rows, 1, width, dtype=dtype)
    weights = [draw(count, width, dtype=dtype) / width**0.5 for count in counts]
    for found, weight in zip(kernels.products(x, *weights), weights, strict=True):
        close(found, F.linear(x.double(), weight.double()))
    close(kernels.product(x, weights[0]), F.linear(x.double(), weights[0].double()))
    gate, up = draw(170, width, dtype=dtype) / width**0.5, draw(170, width, dtype=dtype) / width**0.5
    gated = F.gelu(F.linear(x.double(), gate.double()), approximate="tanh") * F.linear(x.double(), up.double())
    close(kernels.gated(x, gate, up), gated)
    a, b = draw(3, 5, 333, dtype=dtype), draw(3, 5, 333, dtype=dtype)
    close(kernels.geglu(a, b), F.gelu(a.double(), approximate="tanh") * b.double())


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("heads", [(8, 4, 256), (32, 16, 128), (8, 1, 256), (4, 2, 12)])
@pytest.mark.parametrize(("queries", "keys"), [(1, 70), (1, 900), (8, 300), (33, 33), (270, 270), (130, 500)])
def test_attention(dtype, window, softcap, heads, queries, keys):
    num, shared, head_dim = heads
    q = draw(2, num, queries, head_dim, dtype=dtype)
    k, v = (draw(2, shared, keys + 9, head_dim, dtype=dtype)[:, :, :keys] for _ in range(2))
    step = torch.arange(keys, device="cuda").repeat(2, 1)
    position = step.clone()
    step[:, : keys // 3] = 0
    valid = torch.rand(2, keys, device="cuda") > 0.2
    valid[:, :2] = True
    mask = AttentionMask(step[:, keys - queries :], position[:, keys - queries :], step, position, valid)
    close(*both(lambda *qkv: attend(*qkv, scale=head_dim**-0.5, softcap=softcap, mask=mask, window=window), q, k, v))
