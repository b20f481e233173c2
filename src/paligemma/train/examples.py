"""The examples of a run: its sources opened, every row looked at, mixed.

    data.train -> sources -> check -> (bad rows left out) -> Mixture
    data.validation -> sources -> check -> (bad rows left out)

A bad row stops a run before its first step, or is left out and listed in `rejects.jsonl`. Not done here: the checks
(`data.check`), steps (`streams`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from paligemma.checkpoints import load_codec
from paligemma.config import find_variant
from paligemma.data.check import check
from paligemma.data.example import Source
from paligemma.data.findings import Findings
from paligemma.data.left_out import LeftOut
from paligemma.data.mixture import Mixture
from paligemma.data.scenes import SceneSource
from paligemma.data.sources import open_source, usual_text_tokens
from paligemma.errors import InputError, UsageError
from paligemma.results.files import writing
from paligemma.train.config import SourceConfig, TrainConfig
from paligemma.train.distributed import Parallel
from paligemma.train.start import Start

REPORT, REJECTS = "data_report.txt", "rejects.jsonl"


@dataclass(frozen=True, kw_only=True)
class Examples:
    """What a run learns from and is judged on; `findings` of every source, in the main process.

    `max_tokens`: text tokens a row of these may have.
    """

    max_tokens: int
    mixture: Mixture
    validation: tuple[Source, ...]
    findings: tuple[Findings, ...]


def open_examples(config: TrainConfig, start: Start, parallel: Parallel | None = None) -> Examples:
    """Opens and checks all data of a run.

    Raises:
        UsageError: there is nothing to train on. UnavailableError: data that are not on this machine.
        InputError: data that cannot be read, or rows that must not be trained on; the first is told, and how many.
    """
    data = config.data
    if not data.train:
        raise UsageError("there is nothing to train on; give data.train a file, a folder or `scenes`")
    parallel = parallel or Parallel()
    train = _opened(data.train, "train", start)
    validation = _opened(data.validation, "validation", start)
    _refuse_shared_scenes(train, validation)
    max_tokens = data.max_tokens or usual_text_tokens([*train, *validation])
    findings: list[Findings] = []

    def look() -> list[list[int]]:
        findings.extend(_findings(train, validation, config, start, max_tokens))
        return _bad_rows(findings, config)

    bad = parallel.on_main(look)
    kept = [LeftOut(source, rows) if rows else source for source, rows in zip([*train, *validation], bad, strict=True)]
    changes = data.augment
    changed = any((changes.flip, changes.crop, changes.scale, changes.color))
    mixture = Mixture(
        list(zip(kept[: len(train)], (one.weight for one in data.train), strict=True)), seed=config.seed,
        augment=changes if changed else None, codec=load_codec(start.codec_path) if start.codec_path else None,
    )  # fmt: skip
    return Examples(
        max_tokens=max_tokens, mixture=mixture, validation=tuple(kept[len(train) :]), findings=tuple(findings)
    )


def write_data_report(folder: Path, findings: Sequence[Findings]) -> None:
    """`data_report.txt`, and `rejects.jsonl` where rows were left out.

    Raises:
        ResourceError: they cannot be written.
    """
    with writing(folder / REPORT) as file:
        file.write("\n\n".join(found.to_text() for found in findings) + "\n")
    bad = {found.source: found for found in findings if found.bad}
    for name, found in bad.items():
        file_name = REJECTS if len(bad) == 1 else f"{Path(name).name}.{REJECTS}"
        found.write_rejects(folder / file_name)


def remarks(findings: Sequence[Findings]) -> list[str]:
    """One sentence for each source in which something is odd or was left out."""
    found = []
    for one in findings:
        odd = ", ".join(f"{count:,} {code.replace('_', ' ')}" for code, count in one.counts.most_common(3))
        if odd:
            found.append(f"{one.source}: {odd}; see {REPORT}")
    return found


def _opened(sources: Sequence[SourceConfig], split: str, start: Start) -> list[Source]:
    """The sources; `split` of those that do not say."""
    codec = load_codec(start.codec_path) if start.codec_path else None
    side = start.processor.image_size_px
    return [
        open_source(
            one.path, split=one.split or split, prefix=one.prefix, name=one.name, image_size_px=side, codec=codec
        )
        for one in sources
    ]


def _refuse_shared_scenes(train: Sequence[Source], validation: Sequence[Source]) -> None:
    """
    Raises:
        UsageError: scenes to be judged on that are, or will be, trained on; `data.check` only sees the first of them.
    """
    for one in validation:
        for other in train:
            if isinstance(one, SceneSource) and isinstance(other, SceneSource) and one.shares_seeds(other):
                raise UsageError(
                    f"{one.name} of data.validation draws the scenes that {other.name} of data.train learns; "
                    "give the two other splits, such as train and validation, or leave the splits out"
                )


def _findings(
    train: Sequence[Source], validation: Sequence[Source], config: TrainConfig, start: Start, max_tokens: int
) -> list[Findings]:
    """Of every source, training's against validation's where there is one of these."""
    variant = find_variant(config.model)
    held_out = validation[0] if len(validation) == 1 else None
    return [
        check(
            source, start.processor, max_tokens=max_tokens, limit=config.data.check, variant=variant,
            held_out=held_out if number < len(train) else None,
        )
        for number, source in enumerate([*train, *validation])
    ]  # fmt: skip


def _bad_rows(findings: Sequence[Findings], config: TrainConfig) -> list[list[int]]:
    """Numbers of the rows to be left out, of each source.

    Raises:
        InputError: there are some, and they are not to be skipped.
    """
    bad = [found for found in findings if found.bad]
    if bad and not config.data.skip_bad:
        first = next(iter(bad[0].bad.values()))
        rows = sum(len(found.bad) for found in bad)
        raise InputError(
            f"{rows:,} rows must not be trained on, the first: {first} (`paligemma data check` tells all of them, "
            "data.skip_bad leaves them out)"
        )
    return [sorted(found.bad) for found in findings]
