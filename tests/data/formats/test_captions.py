import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from paligemma.data.example import Example
from paligemma.data.formats import Entry, detect, read, write
from paligemma.errors import InputError, UsageError

cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
cells |= st.sampled_from(["=1+1", "'=x", "''+x", "-5", "+5", "@a", '"', ",;\t", "two\r\nlines", "-"])


@pytest.fixture
def photos(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    return tmp_path


@given(st.lists(st.tuples(cells.filter(bool), cells), min_size=1, max_size=5), st.sampled_from([".csv", ".tsv"]))
@settings(max_examples=30)
def test_nothing_is_lost(tmp_path_factory, rows, suffix):
    folder = tmp_path_factory.mktemp("table")
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    entries = [Entry("", Example(id="", images=(folder / "a.png",), prefix=p, suffix=s)) for p, s in rows]
    write(entries, "csv", folder / f"t{suffix}")
    found, reading = read(folder / f"t{suffix}", "csv")
    assert reading.problems == []
    assert [(entry.item.prefix, entry.item.suffix) for entry in found] == rows


def test_formulas_are_guarded(photos):
    write([Entry("", Example(id="", images=(photos / "a.png",), prefix="=A1", suffix="-5"))], "csv", photos / "t.csv")
    assert (photos / "t.csv").read_bytes() == b"image,prefix,suffix\r\na.png,'=A1,-5\r\n"


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_captions_with_any_separator(photos, mark):
    (photos / "train.csv").write_text(f"id{mark}File_Name{mark}caption\r\n1{mark}a.png{mark}a cat\r\n\r\n", "utf-8-sig")
    assert detect(photos) == "csv"
    entries, _ = read(photos)
    assert [(e.split, e.item.prefix, e.item.suffix) for e in entries] == [("train", "caption en", "a cat")]
    assert read(photos, prefix="cap de")[0][0].item.prefix == "cap de"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image,words\na.png,x\n", "expected one of caption"),
        ("", "expected one of image"),
        ("image,caption,text\na.png,x,y\n", "say the same"),
    ],
)
def test_tables_without_the_columns(photos, text, said):
    (photos / "t.csv").write_text(text)
    with pytest.raises(InputError, match=said):
        read(photos / "t.csv", "csv")


def test_bad_rows_are_told_with_their_lines(photos):
    (photos / "t.csv").write_text('image,caption\na.png,x,y\na.png,x\nb.png,x\n../a.png,x\na.png,"x" y\na.png,x\n')
    entries, reading = read(photos / "t.csv")
    assert len(entries) == 1
    said = "\n".join(map(str, reading.problems))
    for text in ("line 2: found 3 cells", "line 4: there is no picture", "line 5: the picture", "line 6: no table row"):
        assert text in said


def test_a_table_holds_one_picture_a_row(photos):
    two = Example(id="7", images=(photos / "a.png",) * 2, prefix="x", suffix="y")
    with pytest.raises(UsageError, match="7 has 2 pictures"):
        write([Entry("", two)], "csv", photos)
