"""The bundled model as a big_vision npz and back, with the largest difference of logits."""

from pathlib import Path
from tempfile import TemporaryDirectory

from paligemma.checkpoints import convert

with TemporaryDirectory() as folder:
    npz, directory = Path(folder) / "nano.npz", Path(folder) / "nano"
    for source, target, format in (("nano", npz, "big_vision"), (npz, directory, "hf")):
        report = convert(source, target, format=format, verify=True)
        print(f"{report.source_format} -> {report.format}: {report.num_tensors} tensors, "
              f"largest difference of logits {report.max_logits_difference}")  # fmt: skip
