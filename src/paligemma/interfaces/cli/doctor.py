"""`paligemma doctor`: what this machine offers, and our numbers against golden arrays."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from paligemma.errors import EXIT_CHECK_FAILED, PaliGemmaError
from paligemma.interfaces.cli import console
from paligemma.interfaces.cli.options import Json

if TYPE_CHECKING:
    from paligemma.doctor.report import Report


def doctor(*, golden: Path | None = None, json: Json = False) -> int:
    """Tell what this machine offers, or check the numbers against golden arrays.

    A golden directory holds a tiny model or inputs together with what a reference implementation made of them:
    hf (config.json, model.safetensors, expected.npz), big_vision (ckpt.*.npz, expected.npz), processor (cases.json),
    images (hf_pixels.npz), vae (vae-*.npz, expected.npz, text_cases.json, text_masks.npz), or several directories of
    these kinds. For every array the largest difference is printed beside its tolerance; a broken tolerance is exit
    code 7.

    Args:
        golden: directory of golden arrays to check.
        json: one JSON object on stdout and nothing else.
    """
    if golden is None:
        return _environment(json)
    from paligemma.doctor import find

    reports, unreadable = [], []
    for layout, directory in (found := find(golden)):
        report, error = _check(layout, directory)
        if error:
            if len(found) == 1:
                raise error
            console.error(str(error) if str(directory) in str(error) else f"{directory}: {error}")
            unreadable.append({"path": str(directory), "layout": layout.name, **_error(error)})
        elif report:
            reports.append(report)
            if not json:
                console.say(report.to_text())
    broken = sum(len(report.broken) for report in reports)
    ok = not unreadable and all(report.ok for report in reports)
    if json:
        checked = [report.to_json() for report in reports] + unreadable
        console.print_json({"ok": ok, "broken": broken, "unreadable": len(unreadable), "checked": checked})
    elif len(found) > 1:
        console.say(f"{len(found)} golden directories: {broken} arrays out of tolerance, {len(unreadable)} unreadable")
    return 0 if ok else EXIT_CHECK_FAILED


def _check(layout: Any, directory: Path) -> tuple["Report | None", PaliGemmaError | None]:
    from paligemma.doctor import check

    try:
        return check(layout, directory), None
    except PaliGemmaError as error:
        return None, error


def _error(error: PaliGemmaError) -> dict[str, Any]:
    return {"ok": False, "error": {"code": error.code, "message": str(error)}}


def _environment(json: bool) -> int:
    from paligemma.doctor.environment import describe

    facts = describe()
    if json:
        console.print_json(facts)
        return 0
    rows = [(name.replace("_", " "), _text(value)) for name, value in facts.items() if name != "problems"]
    width = max(len(name) for name, _ in rows)
    console.say("\n".join(f"{name:<{width}}  {value}" for name, value in rows))
    for problem in facts["problems"]:
        console.warn(problem)
    return 0


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "missing" if value is None else str(value)
