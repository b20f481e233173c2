import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.pictures import stored

from paligemma.data.example import Example
from paligemma.data.listed import BadRow
from paligemma.data.mixture import Mixture
from paligemma.data.shards import ShardSource, shard_files, write_shards
from paligemma.errors import InputError, UsageError
from paligemma.images import open_image


def picture(number):
    return Image.fromarray(np.full((6, 8, 3), number % 251, dtype=np.uint8))


def example(number):
    return Example(id=f"x:{number}", images=(picture(number),), prefix=f"caption {number}", suffix=f"ü {number}")


def tar(path, *members):
    with tarfile.open(path, "w") as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def texts(source):
    return [(source[i].prefix, source[i].suffix) for i in range(len(source))]


PNG = stored(picture(1), "PNG")
ROW = json.dumps({"prefix": "caption en", "suffix": "a cat"}).encode()


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 12), st.integers(1, 5))
def test_what_is_written_is_read_back(tmp_path_factory, count, per_shard):
    folder = tmp_path_factory.mktemp("shards")
    files = write_shards(example, count, folder, per_shard=per_shard)
    assert len(files) == -(-count // per_shard)
    source = ShardSource(str(folder), name="x")
    assert texts(source) == [(example(i).prefix, example(i).suffix) for i in range(count)]
    for i in range(count):
        assert np.array_equal(np.asarray(open_image(source[i].images[0])), np.asarray(picture(i)))


def test_several_pictures_and_files_as_they_are(tmp_path):
    file = tmp_path / "a.jpg"
    picture(9).save(file)
    several = Example(id="a", images=(file, stored(picture(3), "WEBP"), picture(4)), prefix="a", suffix="b")
    write_shards(lambda i: several, 1, tmp_path / "out")
    images = ShardSource(str(tmp_path / "out"), name="x")[0].images
    assert images[0] == file.read_bytes()
    assert [Image.open(io.BytesIO(image)).format for image in images] == ["JPEG", "WEBP", "PNG"]


def test_equal_examples_give_equal_files(tmp_path):
    ones, others = (write_shards(example, 5, tmp_path / name, per_shard=2) for name in ("a", "b"))
    assert [file.read_bytes() for file in ones] == [file.read_bytes() for file in others]


def test_a_mixture_can_be_written(tmp_path):
    write_shards(example, 6, tmp_path / "in")
    mixture = Mixture([(ShardSource(str(tmp_path / "in"), name="x"), 1.0)], seed=3)
    write_shards(mixture.__getitem__, 6, tmp_path / "out")
    found = texts(ShardSource(str(tmp_path / "out"), name="x"))
    assert sorted(found) == sorted(texts(mixture.sources[0]))
    assert found == [(mixture[i].prefix, mixture[i].suffix) for i in range(6)]


def test_nodes_read_what_is_theirs_and_together_all(tmp_path):
    write_shards(example, 20, tmp_path, per_shard=7)
    pattern = str(tmp_path / "shard-{000000..000002}.tar")
    seen = []
    for rank in range(4):
        mixture = Mixture([(ShardSource(pattern, name="x"), 1.0)], seed=0)
        seen.append({mixture[i].id for i in range(rank, 20, 4)})
    assert sum(map(len, seen)) == len(set.union(*seen)) == 20


def test_the_webdataset_library_reads_ours_and_we_read_its(tmp_path):
    wds = pytest.importorskip("webdataset")
    write_shards(example, 3, tmp_path / "ours")
    theirs = wds.WebDataset(str(tmp_path / "ours" / "shard-000000.tar"), shardshuffle=False).decode("pil")
    rows = [row["json"]["suffix"] for row in theirs]
    assert rows == ["ü 0", "ü 1", "ü 2"]
    with wds.TarWriter(str(tmp_path / "theirs.tar")) as writer:
        for i in range(3):
            writer.write({"__key__": f"{i:04d}", "jpg": picture(i), "json": {"prefix": "a", "suffix": str(i)}})
    assert texts(ShardSource(str(tmp_path / "theirs.tar"), name="x")) == [("a", "0"), ("a", "1"), ("a", "2")]


def test_texts_may_stand_in_files_of_their_own(tmp_path):
    texts_of_three = [
        ("d/1.png", PNG), ("d/1.txt", b"a cat\n"), ("d/2.caption", b"a dog"), ("d/2.png", PNG),
        ("d/3.prefix.txt", b"ocr"), ("d/3.suffix.txt", b"STOP"), ("d/3.png", PNG), ("d/3.cls", b"7"),
    ]  # fmt: skip
    file = tar(tmp_path / "a.tar", *texts_of_three)
    source = ShardSource(str(file), name="x", prefix="caption en")
    assert texts(source) == [("caption en", "a cat"), ("caption en", "a dog"), ("ocr", "STOP")]


@pytest.mark.parametrize(
    ("members", "field", "told"),
    [
        ([("1.png", PNG)], "prefix", "no prefix"),
        ([("1.json", ROW)], "image", "no picture"),
        ([("1.png", PNG), ("1.json", b"{")], "row", "no JSON"),
        ([("1.png", PNG), ("1.json", b"[]")], "row", "expected an object"),
        ([("1.png", PNG), ("1.json", b'{"sufix": "a"}')], "row", "did you mean 'suffix'"),
        ([("1.png", PNG), ("1.json", b'{"prefix": "a", "suffix": 3}')], "suffix", "no suffix"),
        ([("1.png", PNG), ("1.txt", b"\xff")], "row", "UTF-8"),
    ],
)
def test_a_bad_example_is_told_with_its_place(tmp_path, members, field, told):
    file = tar(tmp_path / "a.tar", ("0.png", PNG), ("0.json", ROW), *members)
    source = ShardSource(str(file), name="x")
    assert source[0].suffix == "a cat"
    with pytest.raises(BadRow, match=told) as caught:
        source[1]
    assert (caught.value.where, caught.value.field) == ("a.tar:1", field)


def test_links_and_devices_are_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        link = tarfile.TarInfo("1.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        file.addfile(link)
    with pytest.raises(InputError, match="no plain file"):
        ShardSource(str(tmp_path / "a.tar"), name="x")


def test_names_that_climb_out_only_name_examples(tmp_path):
    file = tar(tmp_path / "a.tar", ("../../1.png", PNG), ("../../1.json", ROW))
    assert ShardSource(str(file), name="x")[0].suffix == "a cat"
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


@pytest.mark.parametrize("kind", ["truncated", "text", "gzip", "empty"])
def test_what_is_no_whole_tar_is_told(tmp_path, kind):
    file = tar(tmp_path / "a.tar", ("1.json", ROW), ("1.png", PNG * 40))
    if kind == "truncated":
        file.write_bytes(file.read_bytes()[:2048])
    elif kind == "gzip":
        with tarfile.open(file, "w:gz") as other:
            other.addfile(tarfile.TarInfo("1.png"), io.BytesIO())
    else:
        file.write_bytes(b"no tar" * 200 if kind == "text" else b"")
    with pytest.raises(InputError, match="tar"):
        ShardSource(str(file), name="x")


def test_patterns_are_spelled_out(tmp_path):
    for name in ("a-000.tar", "a-001.tar", "b-001.tar"):
        tar(tmp_path / name, ("1.png", PNG))
    assert [file.name for file in shard_files(str(tmp_path / "a-{000..001}.tar"))] == ["a-000.tar", "a-001.tar"]
    assert [file.name for file in shard_files(str(tmp_path / "{a,b}-001.tar"))] == ["a-001.tar", "b-001.tar"]
    assert [file.name for file in shard_files(str(tmp_path / "a-*.tar"))] == ["a-000.tar", "a-001.tar"]
    assert len(shard_files(str(tmp_path))) == 3
    with pytest.raises(InputError, match=r"no shard .*a-002\.tar"):
        shard_files(str(tmp_path / "a-{000..002}.tar"))
    with pytest.raises(InputError, match="no file fits"):
        shard_files(str(tmp_path / "c-*.tar"))
    with pytest.raises(InputError, match="more than"):
        shard_files("a-{0..99999999}.tar")


def test_the_fingerprint_changes_with_the_files(tmp_path):
    one = ShardSource(str(tar(tmp_path / "a.tar", ("1.png", PNG), ("1.json", ROW))), name="x").fingerprint
    other = ShardSource(str(tar(tmp_path / "a.tar", ("1.png", PNG), ("1.json", ROW + b" "))), name="x").fingerprint
    assert one != other


def test_half_a_shard_never_has_a_shards_name(tmp_path):
    def broken(i):
        if i == 3:
            raise InputError("x:3 is gone")
        return example(i)

    with pytest.raises(InputError, match="x:3"):
        write_shards(broken, 5, tmp_path, per_shard=2)
    assert [path.name for path in tmp_path.iterdir()] == ["shard-000000.tar"]


def test_no_picture_is_told(tmp_path):
    (tmp_path / "a.png").write_bytes(b"nothing")
    bad = Example(id="a", images=(Path(tmp_path / "a.png"),), prefix="a", suffix="b")
    with pytest.raises(InputError, match="no picture"):
        write_shards(lambda i: bad, 1, tmp_path / "out")
    with pytest.raises(UsageError, match="0 examples"):
        write_shards(example, 0, tmp_path / "out")
