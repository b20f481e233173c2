"""A training run killed 50 times, at random moments and at chosen calls to the disk, beside one that was left alone.

    OMP_NUM_THREADS=1 python benchmarks/train_kill.py --json benchmarks/train_kill_NAME.json

A tiny model of random weights learns drawn scenes, whole (`paligemma.train`): data worker, evaluations, averaged
weights, best and last exports. Runs are processes forked from one that has imported everything, and are ended by
SIGKILL: every second one after a random time, the others at the n-th call that changes the disk, n random. Out: sha256
of the last set, of the exports and of the log, of both runs.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from paligemma.checkpoints.hub import BUNDLE, BUNDLED
from paligemma.disk import Files
from paligemma.train.config import DataConfig, EvalConfig, OptimConfig, SourceConfig, TrainConfig
from paligemma.train.run import train
from paligemma.train.saving import state

CALLS = ("write", "truncate", "sync", "replace", "remove", "make_directory", "open", "sync_directory")
SHRUNK = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64, "num_attention_heads": 2}
DATA = "scenes?asks=caption"


class Deadly(Files):
    """Ends the process at the `at`-th call (from 1), a write after half of its bytes; writes down which it was."""

    def __init__(self, at: int, told: Path):
        self.at, self.told, self.calls = at, told, 0

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        if self.calls + 1 == self.at:
            super().write(descriptor, data[: len(data) // 2])
        self.reach("write")
        return super().write(descriptor, data)

    def reach(self, name: str) -> None:
        self.calls += 1
        if self.calls == self.at:
            self.told.write_text(name)
            os.kill(os.getpid(), signal.SIGKILL)


def _deadly(name: str):
    def call(self, *arguments):
        self.reach(name)
        return getattr(Files, name)(self, *arguments)

    return call


for _name in CALLS[1:]:
    setattr(Deadly, _name, _deadly(_name))


def tiny_model(folder: Path) -> Path:
    """The bundled model's files with a small architecture; its weights are not used."""
    folder.mkdir()
    config = json.loads((BUNDLED["nano"] / "config.json").read_text())
    config["text_config"] |= {**SHRUNK, "num_key_value_heads": 1, "head_dim": 16, "query_pre_attn_scalar": 16}
    config["vision_config"] |= {**SHRUNK, "projection_dim": 32}
    config |= {"hidden_size": 32, "projection_dim": 32}
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copyfile(BUNDLED["nano"] / "preprocessor_config.json", folder / "preprocessor_config.json")
    shutil.copyfile(BUNDLE / "tokenizer.json", folder / "tokenizer.json")
    return folder


def config_of(model: Path, out: Path, steps: int, save_every: int) -> TrainConfig:
    """One run; everything that leaves a trace on the disk is on."""
    source = SourceConfig(path=DATA)
    return TrainConfig(
        model=f"scratch:{model}", out=out, steps=steps, batch_size=4, precision="fp32", threads=1,
        data=DataConfig(train=(source,), validation=(replace(source, split="validation"),), workers=1),
        optim=OptimConfig(lr=1e-3, ema=0.9), save_every=save_every, save_minutes=0,
        evaluate=EvalConfig(every=4 * save_every, limit=4, pictures=2),
    )  # fmt: skip


def forked(call) -> int:
    """The process id of a copy of this process that does `call` and ends."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        call()
        os._exit(0)
    except BaseException as error:
        print(f"the run ended by itself: {error!r}", file=sys.stderr, flush=True)
        os._exit(1)


def started(config: TrainConfig, files: Files | None = None) -> int:
    """A process that trains, or goes on training."""

    def call() -> None:
        if files is not None:
            state.Files = lambda: files  # what a run's folder takes by default
        train(config, resume=True, quiet=True, device="cpu", preflight=False)

    return forked(call)


def saved(out: Path) -> int:
    """The last step of which there is a set."""
    return max((int(path.name.split("-")[1]) for path in (out / "sets").glob("step-*")), default=0)


def killed(config: TrainConfig, kills: int, whole_s: float, calls: int) -> dict:
    """Runs, ending it by SIGKILL `kills` times; then lets it finish."""
    chance, marks, began = random.Random(20261122), [], time.monotonic()
    told = config.out.with_name("call")
    places: Counter[str] = Counter()
    for number in range(kills):
        left, due = 1 - saved(config.out) / config.steps, kills - number + 1
        at = chance.randint(1, max(1, int(1.9 * calls * left / due))) + 20 if number % 2 else 0
        until = time.monotonic() + chance.uniform(0.2, 1.2 + 1.9 * whole_s * left / due)
        enough = config.steps * (number + 1.5) / (kills + 1)
        child = started(config, Deadly(at, told) if at else None)
        while os.waitpid(child, os.WNOHANG)[0] == 0:
            late = saved(config.out) >= enough if at else time.monotonic() > until or saved(config.out) >= enough
            if late:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                break
            time.sleep(0.005)
        places[told.read_text() if told.exists() else "at a random moment"] += 1
        told.unlink(missing_ok=True)
        marks.append(saved(config.out))
    _, status = os.waitpid(started(config), 0)
    if status:
        sys.exit(f"the last run ended with status {status}")
    return {
        "kills": kills, "killed_in": dict(places), "step_saved_at_each_kill": marks,
        "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip


def sums(out: Path) -> dict[str, str]:
    """sha256 of everything a run is for: its last set, the exports, the reproducible log."""
    last = sorted((out / "sets").glob("step-*"))[-1]
    files = [
        *sorted(last.glob("*.safetensors")), out / "metrics.jsonl", out / "best/model.safetensors",
        out / "last/model.safetensors",
    ]  # fmt: skip
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def count_calls(config: TrainConfig, folder: Path) -> int:
    """Calls that change the disk during an uninterrupted run, and that run itself."""
    told = folder / "calls"
    files = Deadly(0, told)

    def call() -> None:
        state.Files = lambda: files
        train(config, resume=True, quiet=True, device="cpu", preflight=False)
        told.write_text(str(files.calls))

    if os.waitpid(forked(call), 0)[1]:
        sys.exit("the uninterrupted run failed")
    return int(told.read_text())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--save-every", type=int, default=3)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="train-kill-"))
    try:
        model = tiny_model(folder / "model")
        whole, stopped = (
            config_of(model, folder / name, arguments.steps, arguments.save_every) for name in ("whole", "killed")
        )
        began = time.monotonic()
        calls = count_calls(whole, folder)
        whole_s = time.monotonic() - began
        stops = killed(stopped, arguments.kills, whole_s, calls)
        expected, found = sums(whole.out), sums(stopped.out)
        last = load_file(sorted((whole.out / "sets").glob("step-*"))[-1] / "weights.safetensors")
        report = {
            "cpus": os.cpu_count(), "torch": torch.__version__, "steps": arguments.steps,
            "save_every": arguments.save_every, "parameters": sum(tensor.numel() for tensor in last.values()),
            "calls_to_the_disk": calls, "whole_s": round(whole_s, 1), **stops, "sha256": expected,
            "identical": expected == found,
        }  # fmt: skip
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(report, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if report["identical"] else 1


if __name__ == "__main__":
    sys.exit(main())
