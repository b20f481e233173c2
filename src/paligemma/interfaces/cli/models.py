"""list, show, pull, convert: what models there are, and moving them.

`show` of a published name needs nothing but `config`. Only `pull` uses the network; only `convert` reads weights.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from paligemma.config import VARIANTS, Config, Variant, find_variant
from paligemma.errors import EXIT_CHECK_FAILED, UnavailableError, UsageError
from paligemma.interfaces.cli import console
from paligemma.interfaces.cli.options import Flag, Json

LICENCE_URL = {"gemma": "https://ai.google.dev/gemma/terms"}


def list_models(pattern: str = "", /, *, json: Json = False) -> None:
    """List every published model, and which of them are on this machine.

    Args:
        pattern: only names that contain this.
        json: one JSON object on stdout and nothing else.
    """
    found = [v for v in VARIANTS.values() if pattern.lower() in v.name]
    if not found:
        raise UsageError(f"no model has {pattern!r} in its name; `paligemma list` shows all")
    if json:
        console.print_json({"models": [{**_facts(v), "here": is_here(v)} for v in found]})
        return
    rows = [
        [v.name, _count(v.parameters), f"{v.config.vision.image_size_px} px", v.kind, " ".join(v.tasks),
         "yes" if is_here(v) else ""]
        for v in found
    ]  # fmt: skip
    console.say(console.table(["name", "parameters", "image", "kind", "tasks", "here"], rows, right=(1, 2)))


def show(name: str, /, *, json: Json = False) -> None:
    """Show the architecture, size, tasks and licence of a model; needs neither weights nor network.

    Args:
        name: published name, local directory or file, or another hub name in the local cache.
        json: one JSON object on stdout and nothing else.
    """
    facts = describe(name)
    if json:
        console.print_json(facts)
        return
    lines = [(key, value) for key, value in facts.items() if not isinstance(value, dict)]
    for part in ("vision", "text"):
        lines += [(f"{part}.{key}", value) for key, value in facts["architecture"][part].items()]
    lines += [(f"memory {dtype}", _bytes(size)) for dtype, size in facts["memory_bytes"].items()]
    width = max(len(key) for key, _ in lines)
    console.say("\n".join(f"{key.replace('_', ' '):<{width}}  {_text(value)}" for key, value in lines))


def describe(name: str) -> dict[str, Any]:
    """Everything `show` tells of a published name, a local directory or file, or another hub name in the local cache.

    Raises:
        UnavailableError: nothing is called that on this machine.
        CheckpointError: files that are broken.
    """
    known = find_variant(name)
    if known:
        config, facts = known.config, _facts(known)
    else:
        config = read_config(name)
        facts = {"name": name, "same_architecture": _same_architecture(config)}
        facts |= _numbers(config.with_padding_rows(0), config)
    parameters = facts["parameters"]
    return {
        **facts,
        "memory_bytes": {"bfloat16": 2 * parameters, "float32": 4 * parameters},
        "cache_bytes_per_token": config.text.cache_bytes_per_token,
        "architecture": _architecture(config),
    }


def is_here(model: Variant) -> bool:
    """Whether the weights are bundled or in the local cache; never asks the network."""
    from paligemma.checkpoints.hub import resolve

    try:
        resolve(model.name)
    except UnavailableError:
        return False
    return True


def read_config(name: str) -> Config:
    """The architecture that a directory's config.json, or the headers of its weights, describe; no weight is read.

    Raises:
        UnavailableError: nothing is called that on this machine.
        CheckpointError: neither is there, or broken.
    """
    from paligemma.checkpoints import hf_config, resolve

    file = Path(name)
    path = file if file.suffix == ".json" and file.exists() else resolve(name)
    config = path if path.suffix == ".json" else path / "config.json"
    if config.is_file() and not any(path.glob("*.npz")):
        return hf_config.read_config(config)[0]
    from paligemma.checkpoints.load import open_checkpoint

    return open_checkpoint(path).config


def _facts(model: Variant) -> dict[str, Any]:
    padded = model.config.with_padding_rows()
    return {
        "name": model.name,
        "hub_id": model.hub_id,
        "family": model.family,
        "size": model.size,
        "kind": model.kind,
        "task": model.task,
        "tasks": list(model.tasks),
        "licence": model.licence,
        "licence_url": LICENCE_URL.get(model.licence),
        "text_length": model.text_length,
        **_numbers(model.config, padded),
    }


def _numbers(bare: Config, padded: Config) -> dict[str, Any]:
    return {
        "resolution_px": bare.vision.image_size_px,
        "num_image_tokens": bare.vision.num_image_tokens,
        "parameters": bare.num_parameters,
        "parameters_padded": padded.num_parameters,
    }


def _architecture(config: Config) -> dict[str, Any]:
    """The numbers of both towers; `text` with the rows of the vocabulary alone."""
    vision, text = asdict(config.vision), asdict(config.text)
    del text["padding_rows"]
    vision |= {"head_dim": config.vision.head_dim, "num_parameters": config.vision.num_parameters}
    text |= {"num_parameters": config.with_padding_rows(0).text.num_parameters}
    return {"vision": vision, "text": text}


def _same_architecture(config: Config) -> str | None:
    """The first published model of the same numbers."""
    return next((v.name for v in VARIANTS.values() if v.config == config.with_padding_rows(0)), None)


def _count(number: int) -> str:
    return f"{number / 1e9:.2f} B" if number >= 1e9 else f"{number / 1e6:.1f} M"


def _bytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "-" if value is None else str(value)


def pull(name: str, /, *, revision: str | None = None, json: Json = False) -> None:
    """Download a model from the Hugging Face hub into the local cache; goes on where an earlier pull stopped.

    The real weights are Google's, under the Gemma terms: accept them on the model's page first, and give your token as
    HF_TOKEN or through `hf auth login`.

    Args:
        name: published name, such as paligemma2-3b-mix-224; or vae-oid, the codec of masks.
        revision: branch or commit; default main.
        json: one JSON object on stdout and nothing else.
    """
    from paligemma.checkpoints import pull as download

    known = find_variant(name)
    if known and known.licence in LICENCE_URL:
        console.note(f"{known.hub_id} is under the Gemma terms of use: {LICENCE_URL[known.licence]}")
    path = download(name, revision)
    if json:
        console.print_json({"name": name, "revision": revision, "path": str(path)})
    else:
        console.say(str(path))


def convert(
    source: str,
    target: str,
    /,
    *,
    format: Literal["hf", "big_vision", "int8"] = "hf",
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
    layout: Literal["hub", "4.5x", "5.23"] = "hub",
    verify: Flag = False,
    overwrite: Flag = False,
    variant: str | None = None,
    revision: str | None = None,
    tokenizer: str | None = None,
    json: Json = False,
) -> int:
    """Write a model in another format, without loss but for int8.

    Args:
        source: model to read: bundled name, directory, file, or hub name in the local cache.
        target: directory (hf, int8) or name of an .npz file (big_vision) to write.
        format: hf writes safetensors with configuration and tokenizer, big_vision one .npz; int8 such safetensors with
            every matrix as codes of 8 bits and a scale for each row, which only paligemma reads.
        dtype: number type of the written weights, with int8 of what is no matrix; by default that of the source.
        layout: names of the hf tensors: hub as published, or those of transformers 4.5x or 5.23.
        verify: compare the logits of source and target; any difference is exit code 7, unless --dtype or int8 rounds.
        overwrite: replace weights that are at the target already.
        variant: published name of the architecture, for files that do not tell it.
        revision: of a hub name; default main.
        tokenizer: model, directory or file to copy the tokenizer from, for an .npz that comes without.
        json: one JSON object on stdout and nothing else.
    """
    from paligemma.checkpoints import convert as rewrite

    report = rewrite(
        source, target, format=format, dtype=dtype, layout=layout, verify=verify, overwrite=overwrite,
        variant=variant, revision=revision, tokenizer=tokenizer,
    )  # fmt: skip
    types = f"int8 and {report.dtype}" if format == "int8" else report.dtype
    difference = report.max_logits_difference
    same = difference is None or dtype is not None or format == "int8" or difference <= 0.0
    if json:
        facts = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(report).items()}
        console.print_json({**facts, "files": [str(file) for file in report.files], "ok": same})
    else:
        console.say(
            f"{report.target}: {report.num_tensors} tensors, {report.num_parameters:,} parameters, {types}, "
            f"{_bytes(report.num_bytes)} in {report.seconds:.1f} s"
        )
        if difference is not None:
            console.say(f"largest difference of the logits: {difference:.3g}")
    if not same:
        console.error(f"source and {report.target} compute different logits, expected the same; do not use the target")
    return 0 if same else EXIT_CHECK_FAILED
