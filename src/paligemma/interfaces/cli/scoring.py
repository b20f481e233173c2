"""`paligemma score`: which of some answers the model finds likeliest for a picture."""

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from paligemma.errors import UsageError
from paligemma.interfaces.cli import console
from paligemma.interfaces.cli.answering import load
from paligemma.interfaces.cli.options import Flag, Json, ModelOptions, SourceOptions
from paligemma.interfaces.cli.sources import Item, Sources

if TYPE_CHECKING:
    from paligemma.api import Ranked

_SOURCE, _MODEL = SourceOptions(), ModelOptions()


def score(
    image: str,
    prompt: str,
    candidates: Annotated[list[str], Parameter(name="CANDIDATES", negative=())],
    /,
    *,
    ask: Flag = False,
    lang: str = "en",
    json: Json = False,
    source: SourceOptions = _SOURCE,
    model: ModelOptions = _MODEL,
) -> int:
    """Rank given answers by how likely the model finds them.

    Probabilities are shares among the candidates and add up to 1; a candidate counts as a whole answer, its end
    included.

    Args:
        image: one picture: a file, an address, or `-` for stdin.
        prompt: exactly what the model is given, such as "answer en cat or dog?"
        candidates: possible answers, two or more.
        ask: the prompt is a question, as for `paligemma ask`.
        lang: language code of the answers to a question.
        json: one JSON object on stdout and nothing else.
    """
    if len(candidates) < 2:
        raise UsageError(f"only {candidates[0]!r} is there to be ranked; give two candidates or more")
    sources = Sources([image], source)
    if sources.several:
        raise UsageError(f"{image} stands for several pictures, and score takes one; name one")
    [item] = sources
    if item.error is not None:
        raise item.error
    from paligemma.api import Images

    loaded = load(model)
    asked = loaded.prompt("ask", prompt, lang) if ask else prompt
    ranked = loaded.score(Images(*item.pictures), asked, candidates)
    if json:
        console.print_json(_row(loaded.name, item, prompt if isinstance(asked, str) else asked.text, ranked))
    else:
        rows = [[f"{one.probability:.3f}", f"{one.logprob:.2f}", one.text] for one in ranked]
        console.say(console.table(["probability", "log p", "answer"], rows, right=(0, 1)))
    return 0


def _row(name: str, item: Item, prompt: str, ranked: "list[Ranked]") -> dict[str, Any]:
    return {
        "model": name,
        "task": "score",
        "prompt": prompt,
        "images": [{"path": path} for path in item.paths],
        "candidates": [one.to_dict() for one in ranked],
    }
