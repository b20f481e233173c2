"""`MODEL_CARD.md`: what a run's weights are, from what, on what, by what, how good, and under which licence.

In: the run's configuration, its figures, and what the weights began as. Out: Markdown with the head that Hugging Face's
hub reads. Nothing is guessed: what is not known is said to be unknown.
"""

import json
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from paligemma.config import find_variant
from paligemma.doctor.environment import NEEDED, version_of
from paligemma.results.files import writing
from paligemma.train.config import SourceConfig, TrainConfig
from paligemma.train.reports.report import finite

NAME = "MODEL_CARD.md"
GEMMA, OPEN, OTHER = "gemma", "apache-2.0", "other"
_OWN_SECTIONS = ("data", "model", "out")  # of the configuration: told elsewhere on the card
# The first sentence of the first is the notice that the terms ask for with every copy.
_LICENCES = {
    GEMMA: (
        "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms. "
        "These weights are a modified version of {base}: trained further as described above. Whoever passes them on "
        "passes on these terms, their use restrictions, and a note of what was modified."
    ),
    OPEN: "Trained from {base}, whose weights are under the Apache License 2.0; so may these be.",
    OTHER: (
        "Trained from {base}, whose licence this program does not know. If it descends from Google's weights, the "
        "Gemma Terms of Use (ai.google.dev/gemma/terms) hold for these weights too."
    ),
}
_SCRATCH = "Trained from random numbers: no weights of others are in it. Name a licence before passing it on."


def write_card(
    folder: Path, config: TrainConfig, figures: Mapping[str, Any], *, counts: Mapping[str, int] | None = None,
    trained: str = "",
) -> Path:  # fmt: skip
    """Writes the card of a run into `folder`.

    Args:
        figures: of the last and best evaluations, and how long it took: by name, possibly nested.
        counts: examples of each source by its name.
        trained: the table of what is trained (`Parts.table()`).

    Raises:
        ResourceError: it cannot be written.
    """
    base, licence = config.model, licence_of(config.model)
    scratch = base.startswith("scratch:")
    sections = [
        _head(base, licence, scratch),
        f"# {config.out.name}\n\n{_what(config)}\n\n{_use(config)}",
        "## Data\n\n" + _data(config, counts or {}),
        "## Figures\n\n" + (_table("figure", "value", _flat(figures)) or "None were measured."),
        "## Training\n\n" + _table("setting", "value", _flat(_settings(config))),
        f"## What was trained\n\n```text\n{trained.strip()}\n```" if trained else "",
        "## Made with\n\n" + _table("program", "version", versions()) + "\n\n" + _state_in_words(git_state()),
        "## Licence\n\n" + (_SCRATCH if scratch else _LICENCES[licence].format(base=f"`{base}`")),
    ]
    path = folder / NAME
    with writing(path) as file:
        file.write("\n\n".join(section for section in sections if section) + "\n")
    return path


def licence_of(model: str) -> str:
    """`gemma`, `apache-2.0` or `other`: of a published name, or of a folder that holds a card with one."""
    known = find_variant(model)
    if known is not None:
        return known.licence
    for name in (NAME, "README.md"):
        for folder in (Path(model), Path(model).parent):
            card = folder / name
            if card.is_file() and (found := _licence_in(card.read_text(encoding="utf-8", errors="replace"))):
                return found if found in _LICENCES else OTHER
    return OTHER


def _licence_in(card: str) -> str | None:
    lines = card.splitlines()
    if not lines or lines[0] != "---":
        return None
    for text in lines[1:]:
        if text == "---":
            return None
        if text.startswith("license:"):
            return text.partition(":")[2].strip()
    return None


def versions() -> dict[str, str]:
    """What it was made with: packages by name, Python, the system and its accelerators."""
    import torch

    from paligemma import __version__

    found = {"paligemma": __version__, "python": platform.python_version()}
    found |= {name: version_of(name) or "missing" for name in NEEDED}
    found["system"] = f"{platform.system()} {platform.machine()}"
    for i in range(torch.cuda.device_count()):
        found[f"cuda:{i}"] = torch.cuda.get_device_name(i)
    return found


def git_state(folder: Path | None = None) -> dict[str, Any] | None:
    """Commit and whether files differ from it, of the repository that `folder` (default: the working one) lies in."""
    head = _git(folder, "rev-parse", "HEAD")
    if head is None:
        return None
    return {"commit": head, "changed": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}


def _git(folder: Path | None, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


# --- sections --------------------------------------------------------------------------------------------------------


def _head(base: str, licence: str, scratch: bool) -> str:
    lines = ["---", "library_name: paligemma", "pipeline_tag: image-text-to-text"]
    lines += [] if scratch else [f"license: {licence}", f"base_model: {json.dumps(_hub_name(base))}"]
    return "\n".join([*lines, "tags:", "- paligemma", "---"])


def _hub_name(base: str) -> str:
    known = find_variant(base)
    return (known.hub_id if known else None) or base


def _what(config: TrainConfig) -> str:
    if config.lora is not None:
        how = f"adapters of rank {config.lora.rank} on {', '.join(config.lora.where)}"
        how += f" over a base in {config.quantize}" if config.quantize else ""
    else:
        how = f"all weights of: {', '.join(config.train)}"
    stage = f", stage {config.stage}" if config.stage is not None else ""
    return f"PaliGemma weights trained from `{config.model}`{stage}; {how}."


def _use(config: TrainConfig) -> str:
    best = json.dumps(str(config.out / "best"))
    words = best if config.lora is None else f"{json.dumps(config.model)}, adapter={best}"
    lines = ["import paligemma", "", f"model = paligemma.load({words})"]
    return "\n".join(["```python", *lines, 'print(model.generate("picture.jpg", "caption en").text)', "```"])


def _data(config: TrainConfig, counts: Mapping[str, int]) -> str:
    rows = ["| used for | source | weight | examples |", "|---|---|---|---|"]
    for use, sources in (("training", config.data.train), ("validation", config.data.validation)):
        rows += [_source(use, source, counts) for source in sources]
    return "\n".join(rows)


def _source(use: str, source: SourceConfig, counts: Mapping[str, int]) -> str:
    count = next((counts[name] for name in (source.name, source.path) if name is not None and name in counts), None)
    return f"| {use} | `{source.path}` | {source.weight:g} | {'unknown' if count is None else f'{count:,}'} |"


def _settings(config: TrainConfig) -> dict[str, Any]:
    adapters_alone = ("train",) if config.lora is not None and config.train == ("all",) else ()
    left_out = (*_OWN_SECTIONS, *adapters_alone)
    return {name: value for name, value in asdict(config).items() if name not in left_out and value is not None}


def _state_in_words(state: Mapping[str, Any] | None) -> str:
    if state is None:
        return "The folder it was run in is no git repository."
    changed = " with changes that were not committed" if state["changed"] else ""
    return f"Run in a git repository at commit `{state['commit']}`{changed}."


def _table(key: str, value: str, rows: Mapping[str, Any]) -> str:
    if not rows:
        return ""
    lines = [f"| {name} | {_cell(cell)} |" for name, cell in rows.items()]
    return "\n".join([f"| {key} | {value} |", "|---|---|", *lines])


def _flat(values: Mapping[str, Any], head: str = "") -> dict[str, Any]:
    """Nested values by dotted names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{head}{name}.")
        elif value is not None:
            found[f"{head}{name}"] = value
    return found


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "not finite" if finite(value) is None else f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_cell, value)) or "none"
    return str(value).replace("|", "\\|").replace("\n", " ")
