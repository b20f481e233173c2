"""What was seen -> figures, ratios and shares of the limit; one row for each case."""

from collections.abc import Callable, Iterable
from statistics import median
from typing import Any

from harness.cases import GIB, PEERS, VARIANT, Case, Setup
from harness.measure import LIMITS, OURS, Found, Seen, tower_type

MORE_IS_BETTER = {"tokens_per_s", "pipeline_tokens_per_s", "pictures_per_min"}
CONTAMINATED = 0.2  # cores of other programs from which on a row says so


def _of(name: str) -> Callable[[Seen], float]:
    return lambda seen: median(one[name] for one in seen.repetitions)


def _count(repetition: dict[str, Any]) -> int:
    return sum(map(len, repetition["answers"]))


def _tokens_per_s(seen: Seen) -> float:
    """After the first ones; by the median step where all rows go on to the same end."""
    lengths = {len(answer) for one in seen.repetitions for answer in one["answers"]}
    if len(lengths) == 1:
        return len(seen.repetitions[0]["answers"]) / median(one["step_s"] for one in seen.repetitions)
    rows = len(seen.repetitions[0]["answers"])
    return median((_count(one) - rows) / (one["seconds"] - one["ttft_s"]) for one in seen.repetitions)


FIGURES: dict[str, Callable[[Seen], float]] = {
    "ttft_s": _of("ttft_s"),
    "tokens_per_s": _tokens_per_s,
    "pipeline_tokens_per_s": lambda seen: median(_count(one) / one["seconds"] for one in seen.repetitions),
    "pictures_per_min": lambda seen: median(60 * len(one["answers"]) / one["seconds"] for one in seen.repetitions),
    "load_s": lambda seen: median(one["load_s"] for one in seen.opened),
    "peak_gib": lambda seen: max(one["peak_bytes"] for one in seen.repetitions) / GIB,
    "extra_gib": lambda seen: (
        max(one["most_bytes"] for one in seen.repetitions) - seen.repetitions[0]["before_bytes"]
    ) / GIB,
    "wall_s": _of("wall_s"),
    "model_s": _of("model_s"),
}  # fmt: skip


def row(case: Case, found: Found) -> dict[str, Any]:
    """One case as JSON: `ratio` above 1 means that ours is better; `of_limit` is 1 where nothing could be faster."""
    figure = FIGURES[case.figure]
    values = {name: figure(seen) for name, seen in found.sides.items() if name != LIMITS and seen.repetitions}
    ours = values.pop(OURS, None)
    peer_name = next(iter(values), None)
    peer = values.get(peer_name) if peer_name else None
    ratio = None
    if ours and peer:
        ratio = ours / peer if case.figure in MORE_IS_BETTER else peer / ours
    limits = _limits(found)
    result = {
        "case": case.name, "figure": case.figure, "ours": ours, "peer": peer, "peer_name": peer_name, "ratio": ratio,
        "of_limit": None if ours is None else of_limit(case, found, limits),
        "goal": {name: getattr(case, name) for name in ("ratio", "of_limit", "at_most") if getattr(case, name)},
        "peers": values, "same_tokens": _same_tokens(found, peer_name),
        "missing": {name: seen.missing for name, seen in found.sides.items() if seen.missing},
        "text_only": [name for name in values if PEERS[name].text_only],
        "limits": limits, "rounds": len(found.sides[LIMITS].repetitions), "together": found.together,
        "others_cores": found.others, "stolen_cores": found.stolen, "preferred": found.preferred,
        "seconds": found.seconds,
    }  # fmt: skip
    if case.figure == "tokens_per_s" and found.setup is not None and ours is not None:
        result["gb_per_s"] = ours / found.setup.rows * ideal(found.setup, limits)["step_bytes"] / 1e9
    result["reached"] = _reached(result)
    result["notes"] = list(_notes(result))
    return result


def _same_tokens(found: Found, peer_name: str | None) -> str | None:
    """How many greedy tokens the two first repetitions share, each up to the first that differs."""
    if peer_name is None or PEERS[peer_name].text_only or not found.sides[OURS].repetitions:
        return None
    pairs = list(zip(*(found.sides[name].repetitions[0]["answers"] for name in (OURS, peer_name)), strict=True))
    same = 0
    for one, other in pairs:
        places = [a == b for a, b in zip(one, other, strict=False)]
        same += [*places, False].index(False)
    return f"{same} of {sum(len(one) for one, _ in pairs)}"


def _reached(result: dict[str, Any]) -> bool | None:
    """Whether every goal is met; None where there is none, or something to judge it by is missing."""
    if not result["goal"] or result["ours"] is None:
        return None
    met = []
    for name, goal in result["goal"].items():
        value = result["ours"] if name == "at_most" else result[name]
        if value is None:
            return None
        met.append(value <= goal if name == "at_most" else value >= goal)
    return all(met)


def _notes(result: dict[str, Any]) -> Iterable[str]:
    if result["others_cores"] > CONTAMINATED:
        yield f"other programs took {result['others_cores']:.2f} cores"
    if result["stolen_cores"] > CONTAMINATED / 2:
        yield f"{result['stolen_cores']:.2f} cores were stolen from this virtual machine"
    if not result["together"]:
        yield "each side was opened for every repetition: memory does not hold all of them"
    yield from (f"{name}: text alone, without the picture" for name in result["text_only"])
    yield from (f"{name}: {why}" for name, why in result["missing"].items())


def _limits(found: Found) -> dict[str, float]:
    seen = found.sides[LIMITS].repetitions
    types = seen[0]["matrix"] if seen else {}
    return {"read": median(one["read"] for one in seen), **{
        name: median(one["matrix"][name] for one in seen) for name in types
    }}  # fmt: skip


def of_limit(case: Case, found: Found, limits: dict[str, float]) -> float | None:
    """The share of what the machine could do that ours reached; None for figures without such a limit."""
    setup, seen = found.setup, found.sides[OURS]
    if setup is None or setup.mixed:
        return None
    least = ideal(setup, limits)
    if case.figure == "ttft_s":
        return least["ttft_s"] / FIGURES["ttft_s"](seen)
    if case.figure == "tokens_per_s":
        return least["step_s"] * FIGURES["tokens_per_s"](seen) / setup.rows
    if case.figure == "pipeline_tokens_per_s":
        whole = least["ttft_s"] + (setup.answers[0] - 1) * least["step_s"]
        return whole / median(one["seconds"] for one in seen.repetitions)
    return None


def ideal(setup: Setup, limits: dict[str, float]) -> dict[str, float]:
    """Seconds to the first token and of each step after it at the measured rates, and the bytes a step must read.

    A prompt is bound by matrix products, those of the image tower in bfloat16 or float32 even where the decoder's are
    in eight bits; a step by reading the decoder and the head, or by its products where rows are many.
    """
    from paligemma.config import Config
    from paligemma.engine.planning import PRECISIONS, forward_flops

    architecture = Config.of(VARIANT).at_resolution(setup.image_size_px).with_padding_rows()
    slots, kind = architecture.vision.num_image_tokens, PRECISIONS[setup.precision]
    seen = read = 0.0
    for text in setup.prompts:  # padding is nobody's need
        vision, decoder = forward_flops(architecture, rows=1, tokens=slots + text, pictures=1)
        seen, read = seen + vision, read + decoder
    count = architecture.text.num_parameters
    step_bytes = count * kind.bits / 8
    return {
        "ttft_s": seen / limits[tower_type(setup)] + read / limits[kind.matrix],
        "step_s": max(step_bytes / limits["read"], 2.0 * count * setup.rows / limits[kind.matrix]),
        "step_bytes": step_bytes,
    }  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    """Rows for people, in Markdown."""
    lines = [
        "| case | figure | ours | peer | | ratio | goal | of limit | goal | GB/s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in rows:
        goal, figure, peer = one["goal"], one["figure"], one["peer_name"] or ""
        figure += f" (at most {goal['at_most']})" if "at_most" in goal else ""
        lines.append(
            f"| {one['case']} | {figure} | {_number(one['ours'])} | {peer} | {_number(one['peer'])} | "
            f"{_number(one['ratio'])} | {_number(goal.get('ratio'))} | {_number(one['of_limit'])} | "
            f"{_number(goal.get('of_limit'))} | {_number(one.get('gb_per_s'))} |"
        )
        for name, value in list(one["peers"].items())[1:]:
            lines.append(f"| | | | {name} | {_number(value)} | | | | | |")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
