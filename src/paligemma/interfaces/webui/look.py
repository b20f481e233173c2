"""How the page looks: colours, fonts of the system (none is fetched), a narrow screen, light and dark."""

import html
from collections.abc import Iterable

import gradio as gr

from paligemma.interfaces.webui.words import Words

_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Noto Sans", "Noto Sans CJK SC", "PingFang SC", "sans-serif")
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")

ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect x="3" y="3" width="26" height="26" rx="4" '
    'fill="none" stroke="#f97316" stroke-width="4"/><circle cx="16" cy="16" r="6" fill="#f97316"/></svg>'
)
# on a phone the answer comes below the fields
SHOW_RESULTS = "() => {if (innerWidth < 720) document.querySelector('#results').scrollIntoView({behavior: 'smooth'})}"

# takes the pen for whoever comes to draw; a pen in the hand shows its colours, as further buttons
TAKE_PEN = (
    "() => {let tries = 40; const taking = setInterval(() => {"
    "const tools = document.querySelectorAll('#sketch button.quite-round');"
    "if (tools.length > 2 || !--tries) clearInterval(taking); else tools[0]?.click()}, 300)}"
)

_CSS = """
.gradio-container { max-width: 1180px !important; margin: 0 auto !important; padding: 12px 16px 40px !important; }
#top .bar { display: flex; flex-wrap: wrap; align-items: baseline; gap: 4px 16px; }
#top h1 { font-size: 1.5rem; font-weight: 700; margin: 0; }
#top .model { font-family: var(--font-mono); font-size: .85rem; padding: 1px 8px; border-radius: 999px;
  border: 1px solid var(--border-color-primary); }
#top nav { margin-left: auto; display: flex; gap: 12px; font-size: .95rem; }
#top nav a { color: var(--body-text-color-subdued); text-decoration: none; }
#top nav a[aria-current] { color: var(--body-text-color); font-weight: 600; }
#top nav a:hover, #top nav a:focus-visible { text-decoration: underline; }
#top .intro { margin: 2px 0 6px; color: var(--body-text-color-subdued); }
#verbs .wrap { gap: 6px; }
#verbs label { padding: 6px 12px; }
#verbs input { position: absolute; opacity: 0; width: 0; height: 0; }
#verbs label span { margin-left: 0; }
#verbs label.selected { background: var(--button-primary-background-fill); color: var(--button-primary-text-color); }
#verbs label:focus-within { outline: 2px solid var(--color-accent); outline-offset: 1px; }
#answer textarea { font-size: 1.15rem; line-height: 1.5; }
#status p { margin: 0; }
#status .waiting { color: var(--body-text-color-subdued); padding: 28px 0; text-align: center; }
#status .error { padding: 10px 14px; border-radius: 8px; border-left: 4px solid #dc2626;
  background: color-mix(in srgb, #dc2626 12%, transparent); color: var(--body-text-color); }
#status .warnings { margin: 8px 0 0; padding: 8px 12px 8px 28px; border-radius: 8px; border-left: 4px solid #d97706;
  background: color-mix(in srgb, #d97706 12%, transparent); color: var(--body-text-color); }
#examples .grid-wrap { overflow: hidden; padding: 0; }
#examples .grid-container { grid-template-columns: repeat(6, minmax(0, 1fr)); grid-template-rows: none;
  grid-auto-rows: auto; gap: 8px; padding: 0; }
#examples .gallery-item, #examples .thumbnail-item { width: 100%; height: auto; aspect-ratio: 1; min-width: 0; }
#examples .thumbnail-item img { width: 100%; height: 100%; }
#examples, #examples .gallery-container, #examples .grid-wrap, #examples .grid-container { min-height: 0; height: auto;
  max-height: none; }
#examples { border: 0; background: none; padding: 0; }
#examples-title { margin-bottom: -8px; font-size: .85rem; color: var(--body-text-color-subdued); }
#examples-title p { margin: 0; }
#top .html-container, #status .html-container, #examples-title .html-container { padding: 0; }
#drawn img { max-height: 620px; }
@media (max-width: 640px) {
  .gradio-container { padding: 4px 4px 24px !important; }
  .gradio-container .main { padding: 8px !important; }
  .gradio-container, .gradio-container .main { min-width: 0; max-width: 100vw !important; box-sizing: border-box; }
  #columns { flex-direction: column; }
  #columns > .column { width: 100%; min-width: 0 !important; }
  #results > * { max-width: 100%; }
  #top h1 { font-size: 1.25rem; }
  #top .bar { gap: 4px 10px; }
  #top .intro { font-size: .9rem; }
  #boxes th, #boxes td { font-size: .8rem; }
  #verbs .wrap { display: grid; grid-template-columns: repeat(3, 1fr); }
  #verbs label { justify-content: center; }
}
"""


def theme() -> gr.themes.Base:
    """Gradio's base theme in a warm accent and in fonts of the system."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.orange,
        neutral_hue=gr.themes.colors.stone,
        font=list(_FONTS),
        font_mono=list(_MONO),
        radius_size=gr.themes.sizes.radius_md,
    )


def head(words: Words) -> str:
    """Our style, and for the browser's side of Gradio which language to speak, before it asks the browser."""
    return (
        f"<style>{_CSS}</style>"
        f'<script>Object.defineProperty(navigator, "language", {{get: () => "{words.locale}"}});'
        f'document.documentElement.lang = "{words.locale}";</script>'
    )


def header(model: str, words: Words, languages: Iterable[Words]) -> str:
    """Title, model and the other languages, as HTML."""
    here = ' aria-current="page"'
    links = "".join(
        f'<a href="/{other.code}/" lang="{other.locale}"{here if other is words else ""}>{other.name}</a>'
        for other in languages
    )
    return (
        f'<div class="bar"><h1>PaliGemma</h1><span class="model" title="{html.escape(words.model)}">'
        f'{html.escape(model)}</span><nav>{links}</nav></div><p class="intro">{html.escape(words.intro)}</p>'
    )
