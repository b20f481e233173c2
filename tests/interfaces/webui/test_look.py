import re

from paligemma.interfaces.webui.look import head, header, theme
from paligemma.interfaces.webui.words import CHINESE, WORDS


def test_nothing_is_loaded_from_elsewhere():
    made = theme()
    assert made._get_theme_css()
    assert made._stylesheets == []
    assert "@font-face" not in "".join(made._font_css)
    for words in WORDS.values():
        assert not re.search(r"url\(|@import|src=|href=|//", head(words))


def test_the_browser_is_told_the_language():
    assert '"zh-CN"' in head(CHINESE)


def test_the_header_leads_to_the_other_language_and_escapes_the_model():
    made = header("<b>", CHINESE, WORDS.values())
    assert "&lt;b&gt;" in made
    assert re.findall(r'href="([^"]+)"', made) == ["/en/", "/zh/"]
    assert re.findall(r'href="([^"]+)"[^>]*aria-current', made) == ["/zh/"]
