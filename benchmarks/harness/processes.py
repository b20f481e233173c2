"""Sides in processes of their own, spoken to one at a time, so that the others rest and the machine is one side's.

Where this system lets us, a process gets a scheduling group of its own with priority over other programs (Linux,
`autogroup`), because somebody else's compiler would otherwise take half of every measurement.
"""

import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.sides import Run

HERE = Path(__file__).parents[1]


class Failed(Exception):
    """A side ended before it answered; says what it said last."""


class Worker:
    """One side's process.

    Attributes:
        opened: its first answer: `load_s`, or `not_yet`.
    """

    def __init__(self, side: str, run: Run, *, python: str = sys.executable, threads: int = 2, priority: int = 0):
        environment = {
            **os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false",
            "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent / "src")]), "HF_HUB_OFFLINE": "1",
        }  # fmt: skip
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed by `stop`
        self.process = subprocess.Popen(
            [python, "-m", "harness.worker", side, json.dumps(asdict(run))], env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, start_new_session=True,
        )  # fmt: skip
        self.preferred = prefer(self.process.pid, priority)
        self.opened = self._answer()

    def ask(self, what: str) -> dict[str, Any]:
        """`warm` or `once`.

        Raises:
            Failed: it ended instead.
        """
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # the answer says why
            self.process.stdin.write(what + "\n")
            self.process.stdin.flush()
        return self._answer()

    def processor_s(self) -> float:
        """Seconds of processor time so far, of what it started too."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(BrokenPipeError):  # it ended already
            self.process.stdin.close()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.errors.close()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        self.process.wait()
        self.errors.seek(0)
        raise Failed(f"ended with {self.process.returncode}: {self.errors.read()[-1500:].strip()}")


def prefer(pid: int, priority: int) -> bool:
    """Gives the process's own scheduling group a priority, as `nice` counts; False where that is not permitted."""
    try:
        Path(f"/proc/{pid}/autogroup").write_text(str(priority))
    except OSError:
        return False
    return priority < 0


def can_import(python: str, modules: tuple[str, ...]) -> bool:
    """Whether that interpreter has them; nothing is imported."""
    code = f"import importlib.util as u; raise SystemExit(not all(u.find_spec(m) for m in {modules!r}))"
    return subprocess.run([python, "-c", code], capture_output=True, check=False).returncode == 0


def available_gib() -> float:
    """Memory that is free, or would be."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) / 2**20
