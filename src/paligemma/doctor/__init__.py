"""Self-tests: our numbers against golden arrays, whatever reference wrote them.

A golden directory comes in, a `Report` per layout found goes out. Each layout is one module with `check(directory) ->
list[Row]`; a layout is recognised by the files it cannot do without. Heavy imports happen only where a check runs.
"""

import importlib
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from paligemma.errors import InputError, PaliGemmaError, UnavailableError, UsageError

if TYPE_CHECKING:
    from paligemma.doctor.report import Report


# What reading a cut or foreign npz, JSON or directory raises.
_DAMAGE = (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Layout:
    """What a golden directory of one kind holds, and the module below `paligemma.doctor` that checks it."""

    name: str
    files: tuple[str, ...]  # patterns; every one must match

    def fits(self, directory: Path) -> bool:
        return all(any(directory.glob(pattern)) for pattern in self.files)


LAYOUTS = (
    Layout("hf", ("config.json", "model.safetensors", "expected.npz")),
    Layout("big_vision", ("ckpt.*.npz", "expected.npz")),
    Layout("processor", ("cases.json",)),
    Layout("images", ("hf_pixels.npz",)),
    Layout("vae", ("vae-*.npz", "expected.npz", "text_cases.json", "text_masks.npz")),
)


def layout_of(directory: Path) -> Layout | None:
    """The layout of one directory, by its files."""
    return next((layout for layout in LAYOUTS if layout.fits(directory)), None)


def find(path: str | Path) -> list[tuple[Layout, Path]]:
    """The golden directories at `path`: itself, or those directly below it, by name.

    Raises:
        UnavailableError: nothing is there.
        UsageError: it is no directory.
        InputError: neither it nor a directory in it has a known layout.
    """
    root = Path(path)
    if not root.exists():
        raise UnavailableError(f"there is no {root}; give a directory of golden arrays")
    if not root.is_dir():
        raise UsageError(f"{root} is a file, but a golden directory was expected; give the directory that holds it")
    layout = layout_of(root)
    if layout:
        return [(layout, root)]
    below = sorted(child for child in root.iterdir() if child.is_dir())
    found = [(layout, child) for child in below if (layout := layout_of(child))]
    if not found:
        known = "; ".join(f"{layout.name}: {' + '.join(layout.files)}" for layout in LAYOUTS)
        raise InputError(f"{root} has no golden layout that is known ({known}); give one of these directories")
    return found


def check(layout: Layout, directory: Path) -> "Report":
    """Runs the self-test of one golden directory.

    Raises:
        PaliGemmaError: a file of it cannot be read, or lacks an array.
    """
    import torch

    from paligemma.doctor.report import Report

    module = importlib.import_module(f"paligemma.doctor.{layout.name}")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the models are tiny: more threads only wait for one another, and sum in another order
    try:
        rows = tuple(module.check(directory))
    except PaliGemmaError:
        raise
    except _DAMAGE as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{directory} is damaged or incomplete ({type(error).__name__}: {reason}), expected the arrays of a "
            f"{layout.name} directory; copy it again"
        ) from error
    finally:
        torch.set_num_threads(threads)
    return Report(layout=layout.name, path=str(directory), rows=rows)
