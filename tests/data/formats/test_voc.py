import pytest
from hypothesis import given, settings
from PIL import Image
from tests.data.formats.made import close, data_sets, drawn_boxes, plain_boxes, round_trip

from paligemma.data.formats import detect, read
from paligemma.errors import InputError


@given(data_sets(plain_boxes, drawn_boxes))
@settings(max_examples=12)
def test_boxes_come_back_in_whole_pixels(pictures):
    with round_trip(pictures, "voc") as pairs:
        for mine, theirs in pairs:
            assert [box.label for box in mine.boxes] == [box.label for box in theirs.boxes]
            for a, b in zip(mine.boxes, theirs.boxes, strict=True):
                thin = a.xyxy[2] - a.xyxy[0] < 1 or a.xyxy[3] - a.xyxy[1] < 1
                assert close(a.xyxy, b.xyxy, 1.0 if thin else 0.5)
                assert all(edge == round(edge) for edge in b.xyxy)


OBJECT = "<object><name>cat</name><bndbox>{}</bndbox></object>"
EDGES = "<xmin>1</xmin><ymin>2</ymin><xmax>20</xmax><ymax>10</ymax>"
SOUND = OBJECT.format(EDGES)


def put(folder, body=SOUND, *, head="", size="<size><width>20</width><height>10</height></size>",
        name="a.jpg"):  # fmt: skip
    for place in ("Annotations", "JPEGImages"):
        (folder / place).mkdir(exist_ok=True)
    Image.new("RGB", (20, 10)).save(folder / "JPEGImages" / "a.jpg")
    text = f"{head}<annotation><filename>{name}</filename>{size}{body}</annotation>"
    (folder / "Annotations" / "a.xml").write_text(text)
    return folder


def test_pixels_count_from_one_and_both_edges_are_inside(tmp_path):
    entries, reading = read(put(tmp_path))
    assert reading.problems == []
    assert [(box.label, box.xyxy) for box in entries[0].item.boxes] == [("cat", (0, 1, 20, 10))]
    assert detect(tmp_path) == "voc"


def test_splits_of_the_published_layout(tmp_path):
    put(tmp_path)
    assert read(tmp_path)[0][0].split == ""
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "val.txt").write_text("b\na  1\n")
    (tmp_path / "ImageSets" / "Main" / "trainval.txt").write_text("a\n")
    assert read(tmp_path)[0][0].split == "valid"


def test_splits_of_folders(tmp_path):
    put(tmp_path)
    (tmp_path / "Annotations").rename(tmp_path / "test")
    (tmp_path / "JPEGImages" / "a.jpg").rename(tmp_path / "test" / "a.jpg")
    assert read(tmp_path)[0][0].split == "test"
    assert len(read(tmp_path / "test" / "a.xml")[0]) == 1


@pytest.mark.parametrize("name", ["", "a.tiff", "somewhere/a.png"])
def test_a_picture_is_also_found_by_the_name_of_its_labels(tmp_path, name):
    assert read(put(tmp_path, name=name))[0][0].item.path.name == "a.jpg"


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;">]>'


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (BOMB, "<object><name>&c;</name></object>"),
        ('<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/hostname">]>', "<object><name>&a;</name></object>"),
        ('<!DOCTYPE annotation SYSTEM "http://127.0.0.1:9/x.dtd">', ""),
    ],
)
def test_what_could_reach_out_or_grow_is_refused(tmp_path, head, body):
    entries, reading = read(put(tmp_path, body, head=head))
    assert entries == []
    assert "declares a document type or entity" in reading.problems[0].why


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (OBJECT.format("<xmin>1</xmin>"), "object 1: found the edges"),
        (OBJECT.format(EDGES.replace("20", "nan")), "object 1: found the edges"),
        (OBJECT.format(EDGES.replace("20", "9e99")), "object 1: found the edges"),
        (OBJECT.format(EDGES.replace("20", "40")), "object 1: box [0.0, 1.0, 40.0, 10.0] lies outside"),
        (OBJECT.format(EDGES.replace("20", "0")), "no area"),
        (OBJECT.format(EDGES).replace("cat", " "), "object 1: found the label"),
        ("<object>", "no XML"),
        ("\x01", "no XML"),
    ],
)
def test_bad_objects_are_told(tmp_path, body, said):
    entries, reading = read(put(tmp_path, body))
    assert entries == []
    assert said in str(reading.problems[0])
    assert "a.xml" in str(reading.problems[0])


def test_bad_pictures_are_told(tmp_path):
    _, reading = read(put(tmp_path, size="<size><width>10</width><height>20</height></size>"))
    assert "20 x 10 px, the labels say 10" in reading.problems[0].why
    (tmp_path / "JPEGImages" / "a.jpg").unlink()
    assert "no picture 'a.jpg'" in read(tmp_path)[1].problems[0].why
    _, reading = read(put(tmp_path, name="../../etc/a.jpg"))
    assert reading.problems == []  # found by its own name
    (tmp_path / "Annotations" / "a.xml").write_text("<html/>")
    assert "expected <annotation>" in read(tmp_path)[1].problems[0].why


def test_a_folder_without_labels(tmp_path):
    with pytest.raises(InputError, match="holds no XML file"):
        read(tmp_path, "voc")
