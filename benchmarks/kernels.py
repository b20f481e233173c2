"""Our C kernels on the matrices of PaliGemma 2 3B: how near one row comes to the memory's pace, many rows to a GEMM's.

    python benchmarks/kernels.py [--repeats 9] [--threads 2] [--json out.json]

Weights are rotated past the last cache. Each figure is a share of what was measured in the same turn: GB/s of codes and
scales of the pace at which PyTorch sums float32, operations of oneDNN's bfloat16 product on the same shape. Beside ours
stands what PyTorch itself does with the same rows.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from paligemma.linear.packed import METHODS, PackedLinear
from paligemma.native import library, many_product, plain_product, status, takes_many

SHAPES = {"gate, up": (2304, 9216), "down": (9216, 2304), "q": (2304, 2048), "k, v": (2304, 1024)}  # inputs, outputs
PAST_CACHE = 256 * 2**20  # bytes of weights that are gone through
ROWS = (1, 4, 16, 270)
Work = Callable[[int], Any]


def seconds(work: Work, turns: int) -> float:
    start = time.perf_counter()
    for turn in range(turns):
        work(turn)
    return (time.perf_counter() - start) / turns


def native(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """PyTorch's own loop for one row in bfloat16, which oneDNN hides."""
    with torch.backends.mkldnn.flags(enabled=False):
        return F.linear(x, weight)


def works(rows: int, inputs: int, outputs: int) -> dict[str, tuple[Work, int, int]]:
    """name -> what to run, bytes it reads, weights it goes through."""
    x = torch.randn(rows, inputs).bfloat16()
    first = (torch.randn(outputs, inputs) * 0.02).bfloat16()
    plain = [first.clone() for _ in range(max(1, PAST_CACHE // (2 * first.numel())))]
    found: dict[str, tuple[Work, int, int]] = {
        "bf16, oneDNN": (lambda i: F.linear(x, plain[i % len(plain)]), 2 * first.numel(), len(plain))
    }
    if rows == 1:
        found["bf16, ATen"] = (lambda i: native(x, plain[i % len(plain)]), 2 * first.numel(), len(plain))
    if rows <= 4:
        found["bf16, ours"] = (lambda i: plain_product(x, plain[i % len(plain)]), 2 * first.numel(), len(plain))
    elif takes_many(inputs, outputs):
        found["bf16, ours"] = (lambda i: many_product(x, plain[i % len(plain)]), 2 * first.numel(), len(plain))
    for method in METHODS:
        layer = PackedLinear.pack(method, first)
        size = layer.codes.numel() + layer.scales.numel()
        layers = [PackedLinear.pack(method, first) for _ in range(max(1, PAST_CACHE // size))]
        found[f"{method}, ours"] = (lambda i, layers=layers: layers[i % len(layers)](x), size, len(layers))
    return found


@torch.inference_mode()
def measure(name: str, rows: int, repeats: int, memory: torch.Tensor) -> list[dict[str, Any]]:
    """One line for each kernel on one shape."""
    inputs, outputs = SHAPES[name]
    todo = works(rows, inputs, outputs)
    took: dict[str, list[float]] = {kernel: [] for kernel in todo}
    reads: dict[str, list[float]] = {kernel: [] for kernel in todo}
    for _ in range(repeats + 1):  # the first turn warms up
        for kernel, (work, _, count) in todo.items():
            reads[kernel].append(memory.numel() * 4 / seconds(lambda _: memory.sum(), 1))
            took[kernel].append(seconds(work, count if rows < 9 else 1))
    lines = []
    for kernel, (_, size, _) in todo.items():
        pace = [size / s / read for s, read in zip(took[kernel][1:], reads[kernel][1:], strict=True)]
        faster = [one / s for one, s in zip(took["bf16, oneDNN"][1:], took[kernel][1:], strict=True)]
        middle = statistics.median(took[kernel][1:])
        lines.append(
            {
                "matrix": name, "inputs": inputs, "outputs": outputs, "rows": rows, "kernel": kernel, "seconds": middle,
                "gb_per_s": size / middle / 1e9, "of_memory": statistics.median(pace),
                "gops": 2 * rows * inputs * outputs / middle / 1e9, "times_onednn_bf16": statistics.median(faster),
            }
        )  # fmt: skip
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    assert library() is not None, status()
    memory, lines = torch.ones(2**26), []
    print(f"kernels: {status()}; {arguments.threads} threads, median of {arguments.repeats}\n")
    print("| matrix | rows | kernel | GB/s | of memory | GOP/s | times oneDNN bf16 |\n|---|---|---|---|---|---|---|")
    for name in SHAPES:
        for rows in ROWS:
            for line in measure(name, rows, arguments.repeats, memory):
                print(
                    f"| {name} {line['inputs']} x {line['outputs']} | {rows} | {line['kernel']} | "
                    f"{line['gb_per_s']:.1f} | "
                    f"{line['of_memory']:.2f} | {line['gops']:.0f} | {line['times_onednn_bf16']:.2f} |",
                    flush=True,
                )
                lines.append(line)
    if arguments.json:
        arguments.json.write_text(json.dumps({"kernels": status().split(",")[0], "lines": lines}, indent=1) + "\n")


if __name__ == "__main__":
    main()
