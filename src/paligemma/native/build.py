"""The C kernels of this directory as a loaded library, compiled by the machine's own compiler when first asked for.

In: nothing. Out: a `Library`, or None and a sentence why there is none; everything has a way in plain PyTorch beside
it. The result is kept in the user's cache directory under a name made of all that it depends on, so another processor,
compiler or version compiles anew. Not done here: what the kernels compute (`kernels.c`), calling them (`products`).
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

SOURCES = tuple(
    Path(__file__).with_name(name) for name in ("kernels.c", "many_rows.c", "many_queries.c", "decoder.c", "stack.c")
)
HEADERS = tuple(Path(__file__).with_name(name) for name in ("lanes.h", "numbers.h", "steps.h", "tiles.h"))
FUNCTIONS = {  # arguments: p pointer, i int64, f float; then what comes back
    "branch": ("", ctypes.c_char_p),
    "plain_product": ("ppppp", None),
    "coded_product": ("pppppp", None),
    "scratch_bytes": ("p", ctypes.c_int64),
    "many_rows": ("pipppppp", None),
    "many_rows_bytes": ("p", ctypes.c_int64),
    "pack": ("ppppppp", ctypes.c_double),
    "rms_norm_shared": ("iiiippfp", None),
    "add_norm_shared": ("iiiipppfpfpp", None),
    "rotate_shared": ("ippipppp", None),
    "softcap_shared": ("iiipfp", None),
    "geglu_shared": ("iiippp", None),
    "attend": ("ppppppp", None),
    "attend_many": ("ppppppp", None),
    "attend_many_bytes": ("p", ctypes.c_int64),
    "stack_bytes": ("p", ctypes.c_int64),
    "run_stack": ("pppppppp", None),
}
_TYPES = {"p": ctypes.c_void_p, "i": ctypes.c_int64, "f": ctypes.c_float}
COMPILERS = ("cc", "gcc", "clang")
COMMON = ("-O3", "-std=gnu11", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared")
FLAGS = (  # the first that the compiler takes
    ("-march=native", "-fopenmp"),
    ("-mcpu=native", "-fopenmp"),
    ("-march=native",),
    ("-mcpu=native",),
    (),
)
BEST = 2  # so many of them make the best there is; the others lack OpenMP, the processor, or both
COMPILE_S = 120.0


class _NotBuilt(Exception):
    """There is no library, and this is why."""


@dataclass(frozen=True)
class Library:
    """The loaded kernels.

    Attributes:
        branch: which of those in `lanes.h` the processor takes.
        refused: the compiler's word on the better options that it did not take; "" where it took the best.
    """

    path: Path
    branch: str
    handle: ctypes.CDLL
    refused: str = ""


@cache
def _found() -> Library | str:
    if os.environ.get("PALIGEMMA_NATIVE") == "0":
        return "PALIGEMMA_NATIVE is 0"
    try:
        return build(cache_directory())
    except _NotBuilt as why:
        return str(why)


def library() -> Library | None:
    """The kernels, compiled or loaded by the first call; None where there are none."""
    found = _found()
    return found if isinstance(found, Library) else None


def status() -> str:
    """Which kernels run, for people: `avx512vnni, in PATH`, or why weaker ones or none."""
    found = _found()
    if not isinstance(found, Library):
        return f"none, plain PyTorch instead: {found}"
    return f"{found.branch}, in {found.path}" + (f"; slower than could be: {found.refused}" if found.refused else "")


def cache_directory() -> Path:
    """Where compiled kernels are kept: below XDG_CACHE_HOME, ~/.cache by default."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "paligemma" / "native"


def build(directory: Path, *extra: str) -> Library:
    """The library of `directory`, compiled there unless it already is.

    Args:
        extra: further compiler options; `-DNO_AVX512` and `-DNO_AVX2` turn branches off.

    Raises:
        _NotBuilt: no compiler, one that fails, or no place to write.
    """
    compiler = _compiler()
    path = directory / f"{_fingerprint(compiler, extra)}.so"
    try:
        if path.is_file() and (ready := _loaded(path)):
            return ready
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        _compile(compiler, extra, path)
        return load(path)
    except OSError as error:
        raise _NotBuilt(f"the compiled kernels cannot be kept in or loaded from {directory} ({error})") from None


def _loaded(path: Path) -> Library | None:
    """The library, or None where the file is damaged and has to be made again."""
    try:
        return load(path)
    except OSError:
        return None


def load(path: Path) -> Library:
    """Loads a compiled library, with the note beside it about options that were refused.

    Raises:
        OSError: it is none of this machine's.
    """
    handle = ctypes.CDLL(os.fspath(path))
    for name, (arguments, result) in FUNCTIONS.items():
        function = getattr(handle, name)
        function.argtypes, function.restype = [_TYPES[kind] for kind in arguments], result
    note = _note(path)
    return Library(path, handle.branch().decode(), handle, note.read_text() if note.is_file() else "")


def _note(path: Path) -> Path:
    return path.with_suffix(".refused")


def _compiler() -> str:
    """Path of $CC, or of the first of `COMPILERS` there is."""
    wanted = os.environ.get("CC")
    for name in (wanted,) if wanted else COMPILERS:
        if found := shutil.which(name):
            return found
    raise _NotBuilt(f"there is no C compiler ({wanted or ', '.join(COMPILERS)}); install gcc or clang")


def _fingerprint(compiler: str, extra: tuple[str, ...]) -> str:
    """Of everything the machine code depends on, the processor among it: caches are shared between machines."""
    facts = [*(source.read_text() for source in (*SOURCES, *HEADERS)), compiler, str(Path(compiler).stat().st_mtime_ns)]
    facts += [str(FLAGS), str(COMMON), str(extra), str(_openmp()), torch.__version__, platform.machine(), _processor()]
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()[:24]


def _processor() -> str:
    """What the processor can do, as Linux lists it; elsewhere its name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())


def _openmp() -> Path | None:
    """The OpenMP runtime that PyTorch brought: with another one, two sets of threads would wait for the same cores."""
    found = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    return found[0] if found else None


def _compile(compiler: str, extra: tuple[str, ...], path: Path) -> None:
    """Writes the library to `path`, in one step; before it a note, if better options were refused."""
    said = ""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".building-") as work:
        made = Path(work) / path.name
        for attempt, flags in enumerate(_commands(compiler, extra)):
            command = [*flags, "-o", str(made)]
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, timeout=COMPILE_S, stdin=subprocess.DEVNULL
                )
            except subprocess.TimeoutExpired:
                raise _NotBuilt(f"{compiler} did not end within {COMPILE_S:.0f} s") from None
            if done.returncode == 0:
                if attempt >= BEST:
                    _note(path).write_text(f"{compiler} refused {' '.join(FLAGS[0])} ({said})")
                os.replace(made, path)
                return
            said = said or (done.stderr.strip().splitlines() or ["no word"])[0][:200]
    raise _NotBuilt(f"{compiler} cannot compile the kernels: {said}")


def _commands(compiler: str, extra: tuple[str, ...]) -> Iterator[list[str]]:
    for flags in FLAGS:
        runtime = _openmp() if "-fopenmp" in flags else None
        linked = [str(runtime), "-Wl,--as-needed"] if runtime else []
        yield [compiler, *COMMON, *flags, *extra, *map(str, SOURCES), "-lm", *linked]
