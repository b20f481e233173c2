"""One case of a benchmark in a process of its own, so that its peak of memory is its own.

    found = alone(__file__, {"side": "ours"})     in the script: runs `python SCRIPT --case '{"side": "ours"}'`
    give(measure(case))                           in that process: prints what is found, as the last line

`Peak` measures a stretch of such a process by the kernel's own count (Linux).
"""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

MIB = 2**20


def alone(script: str, case: dict[str, Any], *, threads: int = 1) -> dict[str, Any]:
    """What the script finds about one case.

    Raises:
        SystemExit: that process failed; shows what it said last.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, script, "--case", json.dumps(case)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SystemExit(f"{case} ended with {ended.returncode}:\n{ended.stderr[-3000:]}")
    return json.loads(ended.stdout.strip().splitlines()[-1])


def give(found: dict[str, Any]) -> None:
    """Hands the findings to `alone`."""
    print(json.dumps(found), flush=True)


def resident() -> int:
    """Bytes of this process that are in memory now."""
    return _status("VmRSS")


def forget_peak() -> None:
    """Lets `most` count from now on."""
    Path("/proc/self/clear_refs").write_text("5")


def most() -> int:
    """Most bytes of this process that were in memory at one time."""
    return _status("VmHWM")


class Peak:
    """Seconds by the clock and of the processor, and the most memory, of a `with` block.

    Attributes:
        before: bytes at its beginning. most: bytes at its fullest. seconds, processor_s: how long it took.
    """

    def __enter__(self) -> "Peak":
        forget_peak()
        self.before, self._began = resident(), (time.perf_counter(), time.process_time())
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._began[0]
        self.processor_s = time.process_time() - self._began[1]
        self.most = most()


def machine() -> dict[str, Any]:
    """Where it was measured; torch is imported here."""
    import torch

    name = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    return {
        "processor": name[1] if name else "unknown", "cores": os.cpu_count(), "torch": torch.__version__,
        "when": time.strftime("%Y-%m-%d"),
    }  # fmt: skip


def _status(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None, "this needs Linux"
    return int(found[1]) * 1024
