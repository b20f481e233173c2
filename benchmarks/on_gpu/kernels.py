"""Every kernel on a card beside what PyTorch has: microseconds in a recorded pass, and the share of the card's limit.

`GROUPS` names them; a group that fails says why and leaves the others alone.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from on_gpu.card import DEVICE, forget, recorded_seconds

from paligemma.linear import cuda
from paligemma.linear.packed import METHODS, PackedLinear
from paligemma.model.fused import plain
from paligemma.model.layers import AttentionMask, RMSNorm, attend

Run = Callable[[], object]
Case = tuple[str, Run, Run, float, str]  # name, ours, PyTorch's, bytes or operations, which limit they are held against
SHAPES = {"o": (2304, 2048), "gate": (9216, 2304), "down": (2304, 9216), "head": (257_216, 2304)}  # 3B: outputs, inputs
ROWS = (1, 16, 64, 4096)


def timings(group: str, limits: dict[str, float]) -> list[dict[str, Any]]:
    """One row for each kernel of a group."""
    rows = []
    with torch.inference_mode():
        for name, run, theirs, amount, limit in GROUPS[group]():
            row: dict[str, Any] = {"kernel": name}
            try:
                ours_s, theirs_s = recorded_seconds(run), recorded_seconds(theirs)
                of_limit = amount / ours_s / limits[limit]
                row |= {"us": ours_s * 1e6, "torch_us": theirs_s * 1e6, "of_limit": of_limit}
            except Exception as error:  # one that fails is a finding of its own
                row["skipped"] = f"{type(error).__name__}: {str(error)[:300]}"
            rows.append(row)
            forget()
    return rows


def line(row: dict[str, Any]) -> str:
    name = f"{row['kernel']:34}"
    if "skipped" in row:
        return f"{name} failed: {row['skipped']}"
    return f"{name} {row['us']:9.1f} us   torch {row['torch_us']:9.1f} us   {row['of_limit']:.2f} of the limit"


def half(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device=DEVICE, dtype=torch.bfloat16) * 0.02


def products() -> Iterator[Case]:
    from paligemma.model import triton_kernels

    for name, width, counts in (
        ("matvec qkv 3b", 2304, (2048, 1024, 1024)), ("matvec o 3b", 2048, (2304,)), ("matvec down 3b", 9216, (2304,)),
        ("matvec head 3b", 2304, (257216,)), ("matvec qkv 10b", 3584, (4096, 2048, 2048)),
    ):  # fmt: skip
        x, weights = half(1, 1, width), Turns([[half(count, width) for count in counts] for _ in range(8)])
        joined = Turns([torch.cat(own) for own in weights.all])
        yield (
            name, lambda x=x, w=weights: triton_kernels.matvec(x, *w()), lambda x=x, w=joined: F.linear(x, w()),
            2 * width * sum(counts), "copy_bytes_per_s",
        )  # fmt: skip
    x, pairs = half(1, 1, 2304), Turns([(half(9216, 2304), half(9216, 2304)) for _ in range(8)])
    yield (
        "gated matvec 3b", lambda: triton_kernels.gated_matvec(x, *pairs()), lambda: [F.linear(x, w) for w in pairs()],
        4 * 2304 * 9216, "copy_bytes_per_s",
    )  # fmt: skip


def steps() -> Iterator[Case]:
    from paligemma.model import triton_kernels

    norm, wide = RMSNorm(2304, 1e-6).cuda().bfloat16(), half(64 * 1038, 2304)
    yield "norm of 66,432 rows", lambda: norm(wide), plainly(lambda: norm(wide)), 4 * wide.numel(), "copy_bytes_per_s"
    gate, up = half(16_384, 9216), half(16_384, 9216)
    yield (
        "geglu of 16,384 rows", lambda: triton_kernels.geglu(gate, up),
        lambda: F.gelu(gate, approximate="tanh") * up, 6 * gate.numel(), "copy_bytes_per_s",
    )  # fmt: skip


def attention() -> Iterator[Case]:
    for batch, queries, keys in ((1, 1, 512), (64, 1, 512), (8, 1, 4608), (8, 1038, 1038), (1, 4110, 4110)):
        q, k, v = half(batch, 8, queries, 256), half(batch, 4, keys, 256), half(batch, 4, keys, 256)
        step = torch.arange(keys, device=DEVICE).repeat(batch, 1)
        mask = AttentionMask(step[:, keys - queries :], step[:, keys - queries :], step, step, step >= 0)
        whole = AttentionMask(step * 0, step, step * 0, step, step >= 0) if queries > 1 else mask

        def run(q: Any = q, k: Any = k, v: Any = v, mask: Any = whole) -> object:
            return attend(q, k, v, scale=1 / 16, softcap=50.0, mask=mask)

        amount = 4 * batch * keys * 4 * 256 if queries == 1 else 4 * batch * 8 * queries * keys * 256
        limit = "copy_bytes_per_s" if queries == 1 else "bf16_flops"
        yield f"attention {batch} x {queries} x {keys}", run, plainly(run), amount, limit


def coded(method: str) -> Iterator[Case]:
    """Few rows are held against the bytes of the codes, many against the matrix rate of bfloat16."""
    for name, (out, width) in SHAPES.items():
        layers = Turns([random_codes(PackedLinear.empty(method, width, out)) for _ in range(4)])
        weights = Turns([half(out, width) for _ in range(4)])
        stored = sum(parameter.nbytes for parameter in layers.all[0].parameters())
        for rows in ROWS if name != "head" else ROWS[:3]:
            x = half(rows, width)
            amount, limit = (stored, "copy_bytes_per_s") if rows <= 16 else (2 * rows * out * width, "bf16_flops")
            yield (
                f"{method} {name} x {rows}", lambda x=x, w=layers: w()(x), lambda x=x, w=weights: F.linear(x, w()),
                amount, limit,
            )  # fmt: skip


def random_codes(layer: PackedLinear) -> PackedLinear:
    """On the card, with codes that stand for numbers of about 0.02 without ever being coded."""
    layer = layer.to(DEVICE)
    layer.codes.data.random_(0, 256)
    if layer.kind.floats is not None:
        layer.codes.data &= 0b10111111  # below 2, and no NaN
    scale = 0.02 / (0.6 if layer.kind.floats is not None else 74)
    layer.scales.data.view(torch.bfloat16 if layer.kind.levels else torch.float32).fill_(scale)
    return layer


def can_run(method: str) -> str | None:
    """Why a method cannot run on this card; None where it can."""
    if METHODS[method].floats is None or cuda.has_fp8(torch.device(DEVICE)):
        return None
    return f"the card does not have compute capability {cuda.FP8_FROM}"


class Turns:
    """One thing after another, so that no cache remembers the last."""

    def __init__(self, all: list[Any]):
        self.all, self.turn = all, 0

    def __call__(self) -> Any:
        self.turn += 1
        return self.all[self.turn % len(self.all)]


def plainly(run: Callable[[], object]) -> Callable[[], object]:
    def without_kernels() -> object:
        with plain():
            return run()

    return without_kernels


GROUPS: dict[str, Callable[[], Iterator[Case]]] = {
    "products": products, "steps": steps, "attention": attention,
    **{method: lambda method=method: coded(method) for method in METHODS},
}  # fmt: skip
