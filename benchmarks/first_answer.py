"""A true-size PaliGemma 2 3B-224 with random bfloat16 weights: written, opened, answering, beside transformers.

    python benchmarks/first_answer.py [--rounds 3] [--new 16] [--json out.json]

Each measurement is a process of its own, ours and theirs alternately. Time to first token runs from ready pixels and
ids to the first new token (vision tower, projector, prefill); decoding is the median interval after it. Memory is the
peak resident set of the process and, apart from it, what is not backed by the weights' file.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

VARIANT = "paligemma2-3b-pt-224"
PROMPT = [2, *range(1000, 1012), 108]  # bos, twelve words, newline


def make(directory: Path) -> dict[str, float]:
    """Writes the random checkpoint; returns seconds taken."""
    import torch

    from paligemma.checkpoints import save
    from paligemma.config import Config
    from paligemma.model import PaliGemmaModel

    start = time.perf_counter()
    with torch.device("meta"):
        model = PaliGemmaModel(Config.of(VARIANT).with_padding_rows())
    model = model.to(torch.bfloat16).to_empty(device="cpu")
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2:
            parameter.data.normal_(0, 0.02)
        elif "layer_norm" in name or "layernorm" in name:
            parameter.data.fill_(1.0 if name.endswith("weight") else 0.0)
        else:
            parameter.data.zero_()
    built = time.perf_counter()
    save(model, directory)
    return {"build_s": built - start, "save_s": time.perf_counter() - built}


def memory() -> dict[str, float]:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return {
        "peak_gb": int(fields["VmHWM"].split()[0]) * 1024 / 1e9,
        "anonymous_gb": int(fields["RssAnon"].split()[0]) * 1024 / 1e9,
    }


def measured(started: float, loaded: float, begun: float, times: list[float], tokens: list[int]) -> dict:
    gaps = [b - a for a, b in pairwise(times)]
    decode = statistics.median(gaps)
    return {
        "load_s": loaded - started, "ttft_s": times[0] - begun, "decode_tokens_per_s": 1 / decode,
        "tokens": tokens, **memory(),
    }  # fmt: skip


def ours(directory: Path, new: int) -> dict:
    import torch

    from paligemma.checkpoints import load_checkpoint
    from paligemma.config import IMAGE_SLOT
    from paligemma.engine import Engine, Sampling
    from paligemma.processor import Encoded

    started = time.perf_counter()
    model = load_checkpoint(directory).model
    loaded = time.perf_counter()
    tokens = torch.tensor([IMAGE_SLOT] * 256 + PROMPT)
    prompt = Encoded(
        tokens=tokens, pixels=pixels(), mask_ar=torch.zeros_like(tokens), mask_loss=torch.zeros_like(tokens)
    )
    engine = Engine(model, eos_id=1)
    list(engine.stream(prompt, Sampling(max_tokens=2)))  # pages touched, kernels chosen
    begun = time.perf_counter()
    times, ids = [], []
    for token in engine.stream(prompt, Sampling(max_tokens=new)):
        times.append(time.perf_counter())
        ids.append(token.id)
    return measured(started, loaded, begun, times, ids)


def theirs(directory: Path, new: int) -> dict:
    import torch
    from transformers import PaliGemmaForConditionalGeneration
    from transformers.generation.streamers import BaseStreamer

    class Clock(BaseStreamer):
        def __init__(self) -> None:
            self.times: list[float] = []
            self.tokens: list[int] = []

        def put(self, value: torch.Tensor) -> None:
            if value.numel() == 1:  # the first call hands the prompt over
                self.times.append(time.perf_counter())
                self.tokens.append(int(value))

        def end(self) -> None: ...

    started = time.perf_counter()
    model = PaliGemmaForConditionalGeneration.from_pretrained(directory, dtype=torch.bfloat16).eval()
    loaded = time.perf_counter()
    ids = torch.tensor([[257152] * 256 + PROMPT])
    inputs = {
        "input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids),
        "pixel_values": pixels().to(torch.bfloat16),
    }  # fmt: skip
    with torch.inference_mode():
        model.generate(**inputs, max_new_tokens=2, do_sample=False)
        clock, begun = Clock(), time.perf_counter()
        model.generate(**inputs, max_new_tokens=new, min_new_tokens=new, do_sample=False, streamer=clock)
    return measured(started, loaded, begun, clock.times, clock.tokens)


def pixels():
    import torch

    return torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1


def run(side: str, directory: Path, new: int) -> dict:
    command = [sys.executable, __file__, "--side", side, "--directory", str(directory), "--new", str(new)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"{side} failed:\n{result.stderr[-2000:]}")
    return json.loads(result.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--new", type=int, default=16)
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--directory", type=Path, help="keep or reuse the checkpoint here instead of a temporary folder"
    )
    parser.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        side = {"ours": ours, "theirs": theirs}[arguments.side]
        print(json.dumps(side(arguments.directory, arguments.new)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        directory = arguments.directory or Path(temporary)
        made = {} if (directory / "config.json").exists() else make(directory)
        rounds = [
            {side: run(side, directory, arguments.new) for side in ("ours", "theirs")} for _ in range(arguments.rounds)
        ]
    report = {"variant": VARIANT, "cpus": os.cpu_count(), "made": made, "rounds": rounds}
    print(f"{VARIANT}, random bfloat16 weights, 270 tokens of prompt, batch 1, medians of {arguments.rounds} rounds")
    print(f"{'':24}{'ours':>10}{'transformers':>14}{'ratio':>8}")
    for name in ("load_s", "ttft_s", "decode_tokens_per_s", "peak_gb", "anonymous_gb"):
        mine, peer = (statistics.median(r[side][name] for r in rounds) for side in ("ours", "theirs"))
        print(f"{name:24}{mine:>10.2f}{peer:>14.2f}{mine / peer:>8.2f}")
    same = [a == b for r in rounds for a, b in zip(r["ours"]["tokens"], r["theirs"]["tokens"], strict=True)]
    print(f"same greedy token        {sum(same)} of {len(same)}")
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
