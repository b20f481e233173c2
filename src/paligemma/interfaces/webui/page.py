"""The page in one language: fields, what happens when they are used, and how it looks.

In: an `Asker`, the texts, the examples. Out: a `gradio.Blocks`. Thin: answers come from `answer.py`, files the page
offers are written to Gradio's own folder, which the process empties. Pictures reach us as the bytes that were uploaded.
"""

import json
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr

from paligemma.errors import InputError
from paligemma.interfaces.webui.answer import Asked, Asker, Shown, png, show, show_error
from paligemma.interfaces.webui.examples import Example
from paligemma.interfaces.webui.look import SHOW_RESULTS, TAKE_PEN, header
from paligemma.interfaces.webui.words import VERBS, WORDS, Words
from paligemma.results import Answer
from paligemma.tasks.grammar import LANGUAGES

KEEP_S = 3600  # answers and files of a page that is left open
SKETCH_PX = (448, 448)
PENS = ["#1d1d1f", "#e5484d", "#f76b15", "#ffc53d", "#30a46c", "#0090ff", "#8e4ec6", "#ffffff"]
# for what needs no model: at once, beside the queue's one request (and not with queue=False: a mounted page then gets
# addresses of files without its own path)
_QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": None}
_NAMES = ("objects", "question", "prompt", "language", "style")
_FIELDS = {  # which fields a verb needs
    "caption": ("language", "style"), "ask": ("question", "language"), "ocr": (), "detect": ("objects",),
    "segment": ("objects",), "generate": ("prompt",),
}  # fmt: skip


def build_page(asker: Asker, words: Words, examples: Sequence[Example]) -> gr.Blocks:
    """The page, ready to be mounted; its queue lets one request at a time to the model."""
    with gr.Blocks(title="PaliGemma", analytics_enabled=False, delete_cache=(KEEP_S, KEEP_S)) as page:
        gr.HTML(header(asker.model.name, words, WORDS.values()), elem_id="top")
        with gr.Row(elem_id="columns"):
            with gr.Column(scale=5, min_width=320):
                parts = _fields(asker, words, examples)
            with gr.Column(scale=6, min_width=320, elem_id="results"):
                _results(parts, words)
        _wire(parts, asker, words, examples)
    for block in page.blocks.values():
        _uploads_only(block)
    page.state_session_capacity = 64
    return page.queue(max_size=16, default_concurrency_limit=1)


def _fields(asker: Asker, words: Words, examples: Sequence[Example]) -> SimpleNamespace:
    """The left column: a picture, what to do with it, the words for that."""
    first, parts = examples[0], SimpleNamespace()
    with gr.Tabs(elem_id="source") as parts.tabs:
        with gr.Tab(words.picture, id="picture") as parts.picture_tab:
            parts.picture = gr.Image(
                first.picture, type="filepath", image_mode=None, format="png", sources=["upload", "clipboard"],
                show_label=False, placeholder=words.drop, height=300, buttons=["fullscreen"], elem_id="picture",
            )  # fmt: skip
            parts.picture.preprocess = _path_of  # Gradio would open, and convert, the file with fewer checks than ours
        with gr.Tab(words.drawing, id="drawing") as parts.drawing_tab:
            parts.sketch = gr.Sketchpad(
                type="pil", image_mode="RGB", show_label=False, canvas_size=SKETCH_PX, height=360, layers=False,
                transforms=(), buttons=[], format="png", elem_id="sketch",
                brush=gr.Brush(default_size=10, colors=list(PENS), default_color=PENS[0], color_mode="fixed"),
            )  # fmt: skip
    parts.source = gr.Textbox("picture", visible=False)
    gr.HTML(f"<p>{words.examples}</p>", elem_id="examples-title")
    parts.gallery = gr.Gallery(
        [example.picture for example in examples], format="png", label=words.examples, show_label=False, columns=6,
        allow_preview=False, interactive=False, buttons=[], object_fit="cover", elem_id="examples",
    )  # fmt: skip
    parts.task = gr.Radio(
        [(words.verbs[verb], verb) for verb in VERBS],
        value="detect",
        show_label=False,
        container=False,
        elem_id="verbs",
    )
    parts.objects = gr.Textbox(first.objects, label=words.objects, placeholder=words.objects_hint, elem_id="objects")
    parts.question = gr.Textbox(
        first.question, label=words.question, placeholder=words.question_hint, visible=False, elem_id="question"
    )
    parts.prompt = gr.Textbox(
        first.prompt, label=words.prompt, placeholder=words.prompt_hint, visible=False, elem_id="prompt"
    )
    with gr.Row(visible=False) as parts.small:
        own = words.code if asker.model.variant is not None else "en"  # what nobody published may know English only
        parts.language = gr.Dropdown(
            list(LANGUAGES), value=own, label=words.answer_language, visible=False, min_width=140
        )
        parts.style = gr.Dropdown(
            [(name, style) for style, name in words.styles.items()], value="caption", label=words.style, visible=False,
            min_width=140,
        )  # fmt: skip
    parts.run = gr.Button(words.run, variant="primary", elem_id="run")
    with gr.Accordion(words.more, open=False):
        parts.max_tokens = gr.Number(0, label=words.max_tokens, info=words.max_tokens_hint, precision=0, minimum=0)
    return parts


def _results(parts: SimpleNamespace, words: Words) -> None:
    """The right column: the answer in words or as boxes in the picture, and what it is made of."""
    parts.text = gr.Textbox(
        label=words.answer, interactive=False, lines=2, visible=False, buttons=["copy"], elem_id="answer"
    )
    parts.drawn = gr.Image(
        label=words.drawn, interactive=False, format="png", visible=False, buttons=["fullscreen"], elem_id="drawn"
    )
    parts.status = gr.HTML(f'<p class="waiting">{words.waiting}</p>', elem_id="status")
    parts.least = gr.Slider(
        0, 1, value=0, step=0.01, label=words.threshold, info=words.threshold_hint, visible=False, elem_id="least",
        buttons=[],
    )  # fmt: skip
    parts.table = gr.Dataframe(
        headers=list(words.columns), type="array", interactive=False, visible=False, show_label=False, buttons=[],
        elem_id="boxes", max_height=300,
    )  # fmt: skip
    with gr.Row(visible=False, elem_id="downloads") as parts.downloads:
        parts.picture_file = gr.DownloadButton(words.download_picture, size="sm", min_width=120)
        parts.json_file = gr.DownloadButton(words.download_json, size="sm", min_width=120)
    with gr.Accordion(words.raw, open=False, visible=False, elem_id="raw") as parts.raw_part:
        parts.raw = gr.Textbox(show_label=False, interactive=False, lines=3, buttons=["copy"], container=False)
    parts.answer = gr.State(None, time_to_live=KEEP_S)


def _wire(parts: SimpleNamespace, asker: Asker, words: Words, examples: Sequence[Example]) -> None:
    """What happens when something on the page is used."""

    def ask(*values: Any) -> Iterator[dict[Any, Any]]:
        source, path, sketch, task, objects, question, prompt, language, style, limit, least = values
        said = {"ask": question, "generate": prompt, "caption": "", "ocr": ""}.get(task, objects)
        try:
            picture = _sketched(sketch) if source == "drawing" else None if path is None else Path(path).read_bytes()
            asked = Asked(
                task=task, picture=picture, words=said or "", language=language, style=style, max_tokens=limit or 0
            )
            text = ""
            yield {**_update(parts, Shown()), parts.answer: None}
            for piece in asker(asked, words):
                if isinstance(piece, Answer):
                    shown = show(piece, least, words)
                    yield {**_update(parts, shown, task), parts.answer: piece}
                else:
                    text += piece
                    yield {parts.text: gr.update(value=text, visible=True)}
        except Exception as error:  # whatever it is, the page says it in one sentence
            yield {**_update(parts, show_error(error, words)), parts.answer: None}

    def refilter(answer: Answer | None, least: float) -> dict[Any, Any]:
        return {} if answer is None else _update(parts, show(answer, least, words), answer.task)

    def take(event: gr.SelectData) -> list[Any]:
        example = examples[event.index]
        return [gr.update(selected="picture"), example.picture, example.objects, example.question, example.prompt]

    fields = [getattr(parts, name) for name in _NAMES]
    inputs = [parts.source, parts.picture, parts.sketch, parts.task, *fields, parts.max_tokens, parts.least]
    outputs = [
        parts.text, parts.drawn, parts.status, parts.least, parts.table, parts.downloads, parts.picture_file,
        parts.json_file, parts.raw_part, parts.raw, parts.answer,
    ]  # fmt: skip
    gr.on(
        [parts.run.click, *(field.submit for field in fields[:3])], ask, inputs, outputs, api_visibility="private",
        show_progress_on=parts.status, trigger_mode="once",
    ).then(None, js=SHOW_RESULTS, **_QUIET)  # fmt: skip
    parts.least.change(refilter, [parts.answer, parts.least], outputs[:-1], trigger_mode="always_last", **_QUIET)
    parts.gallery.select(take, None, [parts.tabs, parts.picture, *fields[:3]], **_QUIET)
    # In the browser alone: a request just as another one ends can get lost between Gradio's two sides, and these are
    # what people do right before they press the button.
    parts.task.change(None, parts.task, [parts.small, *fields], js=_choose_fields(), **_QUIET)
    parts.drawing_tab.select(None, js=TAKE_PEN, **_QUIET)
    for name, tab in (("picture", parts.picture_tab), ("drawing", parts.drawing_tab)):
        tab.select(None, None, parts.source, js=f"() => '{name}'", **_QUIET)


def _choose_fields() -> str:
    """JavaScript: verb -> for the row of small fields and each field whether it is to be seen."""
    shown = {task: ["language" in names, *(name in names for name in _NAMES)] for task, names in _FIELDS.items()}
    return f"(task) => ({json.dumps(shown)})[task].map((visible) => ({{__type__: 'update', visible}}))"


def _update(parts: SimpleNamespace, shown: Shown, task: str = "") -> dict[Any, Any]:
    """The right column as `shown` wants it; empty while an answer is on its way."""
    files: dict[Any, Any] = {}
    if shown.json:
        files[parts.json_file] = _file(parts.json_file, f"{task}.json", shown.json.encode())
        if shown.drawn is not None:
            files[parts.picture_file] = _file(parts.picture_file, f"{task}.png", png(shown.drawn))
    drawn = shown.in_boxes and shown.drawn is not None
    return {
        parts.text: gr.update(value=shown.text, visible=bool(shown.json) and not shown.in_boxes),
        parts.drawn: gr.update(value=files[parts.picture_file] if drawn else None, visible=drawn),
        parts.status: shown.status,
        parts.least: gr.update(visible=shown.has_scores),
        parts.table: gr.update(value=shown.rows, visible=bool(shown.rows)),
        parts.downloads: gr.update(visible=bool(files)),
        parts.raw_part: gr.update(visible=bool(shown.json)),
        parts.raw: shown.raw,
        **files,
    }


def _uploads_only(block: Any) -> None:
    """Refuses a request that names another file, or an address, where it should name an upload.

    Gradio would fetch the address; and it checks files only in pages that it started itself, which this is not.
    """
    move, folder = block.async_move_resource_to_block_cache, Path(block.GRADIO_CACHE).resolve()

    async def move_upload(path: Any) -> Any:
        if path is not None and ("://" in str(path) or not Path(path).resolve().is_relative_to(folder)):
            raise InputError("found another file or an address where an upload is expected; upload the file")
        return await move(path)

    block.async_move_resource_to_block_cache = move_upload


def _path_of(payload: Any) -> str | None:
    """The file of an upload; Gradio has made sure that it is one."""
    return None if payload is None else payload.path


def _sketched(sketch: Any) -> Any:
    """The drawing, or None while there is nothing on the paper."""
    drawing = None if sketch is None else sketch["composite"]
    return None if drawing is None or all(low == high for low, high in drawing.getextrema()) else drawing


def _file(part: gr.DownloadButton, name: str, data: bytes) -> str:
    """A file of its own in the folder that Gradio serves and empties."""
    folder = Path(part.GRADIO_CACHE) / secrets.token_hex(16)
    folder.mkdir(parents=True, mode=0o700)
    (folder / name).write_bytes(data)
    return str(folder / name)
