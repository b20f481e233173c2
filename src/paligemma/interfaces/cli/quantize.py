"""`paligemma quantize`: a model -> a directory that answers in fewer bits, and how far each matrix is off."""

from paligemma.interfaces.cli import console
from paligemma.interfaces.cli.options import Flag, Json

_COLUMNS = ["matrix", "shape", "method", "count", "bits", "error", "largest", "whose"]


def quantize(
    source: str,
    target: str,
    /,
    *,
    method: str = "int4",
    overwrite: Flag = False,
    variant: str | None = None,
    revision: str | None = None,
    tokenizer: str | None = None,
    json: Json = False,
) -> None:
    """Write a model in fewer bits, to be loaded as it lies: a quarter to a half of the memory.

    It answers exactly as the source loaded with --quantize does, but opens faster and takes less disk. Tells how far
    matrices are off, |W - decoded| / |W|, worst first: by kind of matrix, with --json each. Only paligemma reads it.

    Args:
        source: model to read: bundled name, directory, file, or hub name in the local cache.
        target: directory to write.
        method: int4, nf4, int8, or fp8 for newer GPUs, for all matrices (the image tower in int8 under 4-bit methods),
            or by part, such as lm=int4,head=int8; parts are vision, lm and head.
        overwrite: replace weights that are at the target already.
        variant: published name of the architecture, for files that do not tell it.
        revision: of a hub name; default main.
        tokenizer: model, directory or file to copy the tokenizer from, for an .npz that comes without.
        json: one JSON object on stdout and nothing else.
    """
    from paligemma.checkpoints import quantize as write

    report = write(
        source, target, method=method, overwrite=overwrite, variant=variant, revision=revision, tokenizer=tokenizer
    )
    if json:
        console.print_json({
            "source": str(report.source), "target": str(report.target), "methods": dict(report.methods),
            "dtype": report.dtype, "files": [str(file) for file in report.files], "num_bytes": report.num_bytes,
            "seconds": report.seconds, **report.packed.to_dict(),
        })  # fmt: skip
        return
    console.say(console.table(_COLUMNS, report.packed.to_kinds(), right=(3, 4, 5, 6)))
    parts = ", ".join(f"{part} {method}" for part, method in report.methods.items())
    console.say(f"\n{report.target}: {parts}, the rest {report.dtype}; {report.packed}; {report.seconds:.1f} s")
