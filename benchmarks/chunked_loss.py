"""What the suffix loss costs over the real vocabulary, by how many rows of logits exist at a time.

    python benchmarks/chunked_loss.py [--rows 1024] [--chunks 64 256 512 1024] [--rounds 1] [--json out.json]

Forward and backward pass of `suffix_sum` for 257,152 tokens at width 2,304 (PaliGemma 2 3B), in bfloat16 as training
computes it. Two heads: *frozen* in bfloat16, as under LoRA, and *trained* in float32, whose gradient is a matrix of
2.4 GB. Each case has a process of its own; memory is the peak above the model, its inputs and that gradient. All rows
at once is what a loss without chunks takes.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from harness.alone import MIB, Peak, alone, give, machine

WIDTH, EXAMPLES = 2304, 8


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """Loss, gradient, time and memory of one head and chunk."""
    import torch

    from paligemma.config import Config, TextConfig, VisionConfig
    from paligemma.model import PaliGemmaModel, suffix_sum

    text = TextConfig(
        width=WIDTH, depth=1, mlp_dim=64, num_heads=1, num_kv_heads=1, head_dim=32, post_norms=True,
        final_logit_softcap=30.0,
    )  # fmt: skip
    vision = VisionConfig(width=32, depth=1, mlp_dim=32, num_heads=1, image_size_px=28)
    trained = case["head"] == "trained"
    torch.set_default_dtype(torch.float32 if trained else torch.bfloat16)
    with torch.device("meta"):
        model = PaliGemmaModel(Config(vision=vision, text=text))
    model = model.to_empty(device="cpu").requires_grad_(False)
    torch.set_default_dtype(torch.float32)
    generator = torch.Generator().manual_seed(0)
    head = model.language_model.embed_tokens.weight
    with torch.no_grad():
        for rows in head.split(8192):
            rows.copy_(torch.randn(rows.shape, generator=generator) * WIDTH**-0.5)
    head.requires_grad_(trained)

    length = case["rows"] // EXAMPLES + 1
    tokens = torch.randint(3, text.vocab_size, (EXAMPLES, length), generator=generator)
    mask_loss = torch.ones_like(tokens)
    mask_loss[:, 0] = 0
    hidden = torch.randn(EXAMPLES, length, WIDTH, generator=generator).to(head.dtype).requires_grad_(True)
    torch.ones(8, 8) @ torch.ones(8, 8)  # the matrix library is loaded

    peaks = []
    for _ in range(case["rounds"]):
        head.grad = hidden.grad = None
        with Peak() as peak, torch.autocast("cpu", torch.bfloat16):
            total, weight = suffix_sum(model, hidden, tokens, mask_loss, per="token", chunk=case["chunk"])
            loss = total / weight
            loss.backward()
        peaks.append(peak)
    assert hidden.grad is not None
    kept = head.grad.numel() * head.grad.itemsize if head.grad is not None else 0
    return {
        "loss": loss.item(), "hidden_grad_norm": hidden.grad.float().norm().item(),
        "above_bytes": max(peak.most - peak.before for peak in peaks) - kept, "gradient_bytes": kept,
        "model_bytes": head.numel() * head.itemsize,
        "seconds": statistics.median(peak.seconds for peak in peaks),
        "processor_s": statistics.median(peak.processor_s for peak in peaks),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1024, help="suffix tokens, in 8 examples")
    parser.add_argument("--chunks", type=int, nargs="+", default=[64, 256, 512, 1024])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        return give(measure(arguments.case))
    results = []
    print("| head | rows at a time | memory, MiB | processor, s | clock, s | loss | norm of the gradient |")
    print("|---|---|---|---|---|---|---|")
    for head in ("frozen", "trained"):
        for chunk in arguments.chunks:
            case = {"head": head, "chunk": chunk, "rows": arguments.rows, "rounds": arguments.rounds}
            found = alone(__file__, case)
            results.append(case | found)
            size = "all" if chunk >= arguments.rows else str(chunk)
            print(
                f"| {head} | {size} | {found['above_bytes'] / MIB:,.0f} | {found['processor_s']:.1f} | "
                f"{found['seconds']:.1f} | {found['loss']:.6f} | {found['hidden_grad_norm']:.6f} |",
                flush=True,
            )
    if arguments.json:
        arguments.json.write_text(json.dumps({**machine(), "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
