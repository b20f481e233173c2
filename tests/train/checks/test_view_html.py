import base64
import io
import re
from html.parser import HTMLParser

from PIL import Image
from tests.train.first_rows import BOX, Spoilt, nano, stream, whole_row_learnt

from paligemma.train.checks.rows import rows_of
from paligemma.train.checks.token_checks import Finding
from paligemma.train.checks.view_html import page


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def of(self, name):
        return [attributes for tag, attributes in self.found if tag == name]


def rows(*texts):
    return rows_of(stream(*texts, batch_size=2).micro_batches(0, 0, 1), nano().processor)


def test_every_token_is_there_with_its_id_and_colour():
    shown = rows(("detect cat", BOX))
    tokens = Tags(page(shown[:1])).of("span")[6:]  # behind the legend
    assert [attributes["class"] for attributes in tokens[:2]] == ["t image", "t prefix"]
    ids = [int(re.match(r"id (-?\d+)", attributes["title"])[1]) for attributes in tokens[1:]]
    assert ids == [token.id for token in shown[0].tokens if token.part not in ("image", "pad")]
    answer = [attributes["class"] for attributes in tokens if "suffix" in attributes["class"]]
    assert answer == ["t suffix trained"] * len(shown[0].of("suffix"))


def test_trained_prompts_are_marked():
    spoilt = rows_of(Spoilt(whole_row_learnt).micro_batches(0, 0, 1), nano().processor)
    assert page(spoilt).count('class="t wrong"') > len(spoilt)
    assert page(rows()).count('class="t wrong"') == 1  # the legend's


def test_pictures_are_inside_and_boxes_drawn_where_the_answer_says():
    tags = Tags(page(rows(("detect cat", BOX + " ; <loc0000><loc0000><loc1023><loc1023> dog"))[:1]))
    (image,) = tags.of("img")
    kind, _, data = image["src"].partition(",")
    assert kind == "data:image/jpeg;base64"
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert picture.width <= 224
    first, second = tags.of("rect")
    assert [round(float(first[key])) for key in ("x", "y", "width", "height")] == [196, 98, 586, 782]
    assert [float(second[key]) for key in ("x", "y", "width", "height")] == [0, 0, 1000, 1000]
    assert first["stroke"] != second["stroke"]


def test_nothing_in_the_data_becomes_markup():
    evil = '</span><script>alert(1)</script><img src=x onerror="y">'
    text = page(rows(("caption en", evil), ("detect cat", BOX + evil)), [
        Finding(check="x", id="rows:0", sentence=evil)
    ])  # fmt: skip
    tags = Tags(text)
    assert not tags.of("script")
    assert all(attributes["src"].startswith("data:") for attributes in tags.of("img"))
    assert not any("onerror" in attributes for _, attributes in tags.found)
    assert "http" not in text.replace("http-equiv", "")


def test_what_was_found_stands_beside_its_row():
    finding = Finding(check="x", id="rows:1", sentence="its box has no area")
    text = page(rows(), [finding])
    assert text.index("rows:1</h2>") < text.index("its box has no area")
    assert text.count("its box has no area") == 1
