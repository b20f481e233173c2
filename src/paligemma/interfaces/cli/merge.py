"""`paligemma merge`: a base and an adapter -> one checkpoint, and how near the two compute."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from paligemma.errors import EXIT_CHECK_FAILED
from paligemma.interfaces.cli import console
from paligemma.interfaces.cli.options import Flag, Json


def merge(
    base: str,
    adapter: str,
    target: str,
    /,
    *,
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
    any_base: Flag = False,
    overwrite: Flag = False,
    revision: str | None = None,
    json: Json = False,
) -> int:
    """Write a model with its adapter merged in, and tell how near the result computes.

    The sum is made in float32 and rounded once. Tokenizer, mask codec and calibration go along. A quantised base is
    refused: merge into the unquantised one and quantise the result.

    Args:
        base: model the adapter was trained on: bundled name, directory, file, or hub name in the local cache.
        adapter: directory of a LoRA in PEFT's format.
        target: directory to write.
        dtype: number type of the written weights; by default that of the base.
        any_base: accept an adapter that was trained on another model.
        overwrite: replace weights that are at the target already.
        revision: of a hub name; default main.
        json: one JSON object on stdout and nothing else.
    """
    from paligemma.checkpoints.merging import merge as write_merged

    report = write_merged(base, adapter, target, dtype=dtype, any_base=any_base, overwrite=overwrite, revision=revision)
    if json:
        facts: dict[str, Any] = {
            key: str(value) if isinstance(value, Path) else value for key, value in asdict(report).items()
        }
        console.print_json({**facts, "files": [str(file) for file in report.files], "ok": report.close})
    else:
        console.say(f"{report.target}: {report.layers} adapted layers merged, {report.dtype}, {report.seconds:.1f} s")
        console.say(
            f"logits of a random input: the adapter moves them by up to {report.adapter_effect:.3g}, "
            f"merging by {report.max_logits_difference:.3g} (largest {report.largest_logit:.3g})"
        )
    if not report.close:
        console.error(
            f"{report.target} computes other logits than base and adapter, expected nearly the same; "
            "do not use it, and merge again with --dtype float32"
        )
    return 0 if report.close else EXIT_CHECK_FAILED
