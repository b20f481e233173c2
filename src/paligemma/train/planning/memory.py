"""How much memory a piece of work takes: the most held at a time, beside what was there before.

On CUDA by torch's allocator. On Linux by the kernel's own mark of the process, which is set back first, so that work
before does not count; elsewhere the mark cannot be set back, and nothing is told.
"""

from pathlib import Path
from types import TracebackType

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc(5): sets the peak of the resident set back to what it is now


class Gauge:
    """Use it as a context: `peak()` is what was held at most in there, with `held` bytes that were there before."""

    def __init__(self, device: torch.device, held: int = 0):
        self.device, self.held = device, held

    def __enter__(self) -> "Gauge":
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
        self._before = _resident("VmRSS") if self._is_reset() else None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def peak(self) -> int | None:
        """Bytes; None where that cannot be told."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        highest = _resident("VmHWM")
        return None if self._before is None or highest is None else max(0, highest - self._before) + self.held

    def _is_reset(self) -> bool:
        try:
            _RESET.write_text(_RESET_PEAK)
        except OSError:
            return False
        return True


def _resident(field: str) -> int | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), None)
