"""A job of 2,000 pictures killed 50 times at random moments, beside one that was left alone, and one at a time.

    OMP_NUM_THREADS=1 python benchmarks/batch_kill.py --json benchmarks/batch_kill_NAME.json

Pictures drawn by `paligemma.scenes`, every hundredth damaged; captions, questions and detections in turn; the bundled
model. Jobs run in processes forked from one that has loaded the model, and are ended by SIGKILL. Out: checksums of both
results, pictures per second of the job and of a loop over single pictures in the same run, and the peak memory of jobs
with 1,000 and 20,000 inputs.
"""

import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

from paligemma.jobs import Here, Settings, run_job
from paligemma.results import Answer
from paligemma.scenes import draw_scene

FIRST_SEED = 1_500_000_000
ASKED = (
    {"task": "caption"},
    {"task": "detect", "objects": "cat; dog; car"},
    {"task": "ask", "question": "how many cats are there?"},
    {"task": "detect", "objects": ["sun", "tree"]},
)


def draw(folder: Path, count: int) -> Path:
    """Pictures, and the list of requests about them."""
    (folder / "photos").mkdir(parents=True)
    requests = folder / "todo.jsonl"
    with open(requests, "w") as file:
        for i in range(count):
            path = folder / "photos" / f"{i:05}.png"
            draw_scene(FIRST_SEED + i).image.save(path)
            if i % 100 == 50:
                path.write_bytes(path.read_bytes()[:300])
            print(json.dumps({"image": f"photos/{i:05}.png", "id": i, **ASKED[i % len(ASKED)]}), file=file)
    return requests


def job(requests: Path, out: Path, loaded, batch_size: int, resume: bool = False):
    settings = Settings(sources=(str(requests),), options={"seed": 1}, batch_size=batch_size)
    return run_job(settings, out, lambda: Here(loaded), resume=resume)


def forked(call) -> int:
    """The process id of a copy of this process that does `call` and ends."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    try:
        call()
        os._exit(0)
    except BaseException as error:
        print(f"the job ended by itself: {error!r}", file=sys.stderr, flush=True)
        os._exit(1)


def done(out: Path) -> int:
    """Inputs that the commit log vouches for."""
    try:
        lines = (out / "job.commits").read_bytes().split(b"\n")[:-1]
        return json.loads(lines[-1][9:])["inputs"] if lines else 0
    except (OSError, ValueError):
        return 0


def killed(requests: Path, out: Path, loaded, batch_size: int, count: int, kills: int, whole_s: float) -> dict:
    """Runs the job, ending it by SIGKILL `kills` times at random moments; then lets it finish."""
    chance, marks, began = random.Random(20261122), [], time.monotonic()
    for number in range(kills):
        child = forked(lambda: job(requests, out, loaded, batch_size, resume=True))
        left_s = whole_s * (count - done(out)) / count
        until = time.monotonic() + chance.uniform(0, 1.8 * left_s / (kills - number + 1))
        enough = count * (number + 1.5) / (kills + 1)  # a machine that got faster must not finish before the last kill
        while time.monotonic() < until and done(out) < enough:
            time.sleep(0.01)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            sys.exit(f"run {number} ended with status {status} before it was killed")
        marks.append(done(out))
    child = forked(lambda: job(requests, out, loaded, batch_size, resume=True))
    _, status = os.waitpid(child, 0)
    if status:
        sys.exit(f"the last run ended with status {status}")
    return {"kills": kills, "committed_at_each_kill": marks, "seconds": round(time.monotonic() - began, 1)}


def sums(out: Path) -> dict[str, str]:
    names = ("results.jsonl", "errors.jsonl")
    return {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in names}


def one_at_a_time(model, requests: Path, count: int) -> float:
    """Pictures per second of a loop over `count` single requests."""
    from paligemma.api import Query
    from paligemma.errors import InputError

    lines = [json.loads(line) for line in requests.read_text().splitlines()[:count]]
    began = time.monotonic()
    for line in lines:
        words = {key: line[key] for key in line if key not in ("image", "id", "task")}
        try:
            model.run([Query(str(requests.parent / line["image"]), line["task"], words)])
        except InputError:
            continue
    return len(lines) / (time.monotonic() - began)


class Fake:
    """A model that answers at once, for the memory of everything else."""

    describe = staticmethod(lambda: {"model": {"name": "none", "sha256": ""}, "environment": {}})
    batch_size = staticmethod(lambda: 16)
    match = staticmethod(lambda environment: [])

    def answerer(self, options):
        return self

    def answer(self, batch, batch_size, on_error):
        return [Answer(text="", raw="", task=opened.item.task, prompt="", images=opened.pictures) for opened in batch]


def peak_mib(folder: Path, inputs: int) -> float:
    """Peak memory of a process that runs a job of `inputs` inputs with a model of no size; half JSONL, half folder."""
    source = folder / f"photos-{inputs}"
    source.mkdir()
    draw_scene(1).image.save(source / "0.png")
    for i in range(1, inputs // 2):
        os.link(source / "0.png", source / f"{i}.png")
    (folder / f"{inputs}.jsonl").write_text(f'{{"image": "photos-{inputs}/0.png"}}\n' * (inputs // 2))
    told = folder / f"peak-{inputs}"
    sources = (str(source), str(folder / f"{inputs}.jsonl"))

    def measured() -> None:
        settings = Settings(sources=sources, task="caption", options={"seed": 1}, batch_size=16)
        run_job(settings, folder / f"run-{inputs}", lambda: Here(Fake()))
        told.write_text(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))

    os.waitpid(forked(measured), 0)
    return round(float(told.read_text()), 1)


def measure(folder: Path, count: int, kills: int, batch_size: int) -> dict:
    memory = {inputs: peak_mib(folder, inputs) for inputs in (1_000, 20_000)}
    print(f"peak memory without a model, MiB: {memory}", flush=True)
    requests = draw(folder, count)

    from paligemma.jobs.model import load_model

    loaded = load_model({"model": "nano", "device": "cpu"})
    single = [one_at_a_time(loaded.model, requests, min(100, count))]
    began = time.monotonic()
    child = forked(lambda: job(requests, folder / "whole", loaded, batch_size))
    if os.waitpid(child, 0)[1]:
        sys.exit("the uninterrupted job failed")
    whole_s = time.monotonic() - began
    print(f"uninterrupted: {whole_s:.0f} s", flush=True)
    single.append(one_at_a_time(loaded.model, requests, min(100, count)))
    stops = killed(requests, folder / "killed", loaded, batch_size, count, kills, whole_s)
    single.append(one_at_a_time(loaded.model, requests, min(100, count)))
    whole, interrupted = sums(folder / "whole"), sums(folder / "killed")
    failed = (folder / "whole" / "errors.jsonl").read_bytes().count(b"\n")
    return {
        "cpus": os.cpu_count(), "environment": loaded.describe()["environment"], "inputs": count, "failed": failed,
        "batch_size": batch_size, "whole_s": round(whole_s, 1), "batch_per_s": round(count / whole_s, 2),
        "single_per_s": [round(rate, 2) for rate in single],
        "batch_over_single": round(count / whole_s / statistics.median(single), 2),
        "killed": stops, "sha256": whole, "identical": whole == interrupted, "peak_mib": memory,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="batch-kill-"))
    try:
        report = measure(folder, arguments.count, arguments.kills, arguments.batch_size)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(report, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if report["identical"] else 1


if __name__ == "__main__":
    sys.exit(main())
