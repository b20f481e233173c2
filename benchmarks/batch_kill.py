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
PARTS = ("memory", "throughput", "kills")
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


def one_at_a_time(model, requests: Path) -> None:
    """A loop over single requests, as a user would write it."""
    from paligemma.api import Query
    from paligemma.errors import InputError

    for line in map(json.loads, requests.read_text().splitlines()):
        words = {key: line[key] for key in line if key not in ("image", "id", "task")}
        try:
            model.run([Query(str(requests.parent / line["image"]), line["task"], words)])
        except InputError:
            continue


def throughput(requests: Path, folder: Path, loaded, batch_size: int, count: int, rounds: int = 3) -> dict:
    """Pictures per second of a job and of single requests, alternately, on the first `count` requests.

    By the clock, and by the processor's time, which a busy machine does not change much.
    """
    few = requests.with_name("few.jsonl")
    few.write_text("".join(requests.read_text().splitlines(keepends=True)[:count]))
    found: dict[str, list[dict]] = {"single": [], "batch": []}
    for number in range(rounds):
        calls = {
            "single": lambda: one_at_a_time(loaded.model, few),
            "batch": lambda out=folder / f"few-{number}": job(few, out, loaded, batch_size),
        }
        for side, call in calls.items():
            began = time.monotonic()
            _, status, used = os.wait4(forked(call), 0)
            if status:
                sys.exit(f"{side} failed")
            seconds, cpu_s = time.monotonic() - began, used.ru_utime + used.ru_stime
            found[side].append({"per_s": round(count / seconds, 2), "per_cpu_s": round(count / cpu_s, 2)})
    medians = {
        side: {name: statistics.median(row[name] for row in rows) for name in rows[0]} for side, rows in found.items()
    }
    ratios = {name: round(medians["batch"][name] / medians["single"][name], 2) for name in ("per_s", "per_cpu_s")}
    return {"inputs": count, "rounds": found, "medians": medians, "batch_over_single": ratios}


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


def killed_and_whole(requests: Path, folder: Path, loaded, batch_size: int, count: int, kills: int) -> dict:
    """The job left alone and the job killed, and whether their results are the same bytes."""
    began = time.monotonic()
    if os.waitpid(forked(lambda: job(requests, folder / "whole", loaded, batch_size)), 0)[1]:
        sys.exit("the uninterrupted job failed")
    whole_s = time.monotonic() - began
    stops = killed(requests, folder / "killed", loaded, batch_size, count, kills, whole_s)
    whole, interrupted = sums(folder / "whole"), sums(folder / "killed")
    failed = (folder / "whole" / "errors.jsonl").read_bytes().count(b"\n")
    return {
        "inputs": count, "failed": failed, "batch_size": batch_size, "whole_s": round(whole_s, 1), **stops,
        "sha256": whole, "identical": whole == interrupted,
    }  # fmt: skip


def measure(folder: Path, arguments: argparse.Namespace) -> dict:
    """The figures of the parts that were asked for."""
    report: dict = {"cpus": os.cpu_count()}
    if "memory" in arguments.parts:
        report["peak_mib"] = {str(inputs): peak_mib(folder, inputs) for inputs in (1_000, 20_000)}
    if {"throughput", "kills"}.isdisjoint(arguments.parts):
        return report
    from paligemma.jobs.model import load_model

    requests = draw(folder, arguments.count)
    loaded = load_model({"model": "nano", "device": "cpu"})
    report["environment"] = loaded.describe()["environment"]
    if "throughput" in arguments.parts:
        report["throughput"] = throughput(requests, folder, loaded, arguments.batch_size, min(64, arguments.count))
    if "kills" in arguments.parts:
        report["kills"] = killed_and_whole(
            requests, folder, loaded, arguments.batch_size, arguments.count, arguments.kills
        )
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--json", type=Path, help="parts that were not run keep the figures they have there")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="batch-kill-"))
    try:
        report = measure(folder, arguments)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(report, indent=1))
    if arguments.json:
        before = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
        arguments.json.write_text(json.dumps({**before, **report}, indent=1) + "\n")
    return 0 if report.get("kills", {}).get("identical", True) else 1


if __name__ == "__main__":
    sys.exit(main())
