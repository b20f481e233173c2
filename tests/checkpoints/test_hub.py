import hashlib
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.oracle import TINY, draw_model

from paligemma.checkpoints import hub, load_checkpoint, pull, resolve, save
from paligemma.checkpoints.mask_codec import find_codec
from paligemma.errors import CheckpointError, UnavailableError, UsageError

COMMIT = "c" * 40
NAME = "paligemma-3b-pt-224"
REPOSITORY = f"google/{NAME}"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of Hugging Face's."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """What a repository holds: a small model, and files nobody should download."""
    directory = tmp_path_factory.mktemp("repository")
    save(draw_model(TINY[1]), directory, shard_bytes=20_000)
    (directory / "tokenizer.json").write_text("{}")
    (directory / "pytorch_model.bin").write_bytes(b"pickle")
    (directory / "README.md").write_text("hello")
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def put_into_cache(cache, files, repository=REPOSITORY, reference="main", commit=COMMIT):
    folder = cache / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True, exist_ok=True)
    (folder / "refs" / reference).parent.mkdir(parents=True, exist_ok=True)
    (folder / "refs" / reference).write_text(commit)
    for name, content in files.items():
        (snapshot / name).write_bytes(content)
    return snapshot


# --- resolve ---------------------------------------------------------------------------------------------------------


def test_paths_are_themselves(tmp_path, monkeypatch):
    (tmp_path / "m").mkdir()
    assert resolve(tmp_path / "m") == resolve(str(tmp_path / "m")) == tmp_path / "m"
    monkeypatch.chdir(tmp_path)
    assert resolve("m") == Path("m")


@pytest.mark.parametrize("missing", ["./x", "/a/b", "a/b/c", "~/nowhere-at-all", "x.npz", "x.safetensors", Path("x")])
def test_paths_that_do_not_exist(missing):
    with pytest.raises(UnavailableError, match="there is no file or directory"):
        resolve(missing)


def test_the_bundled_model_has_its_place(monkeypatch, tmp_path):
    (tmp_path / "nano").mkdir()
    monkeypatch.setattr(hub, "BUNDLED", {"nano": tmp_path / "nano"})
    assert resolve("nano") == tmp_path / "nano"
    monkeypatch.setattr(hub, "BUNDLED", {"nano": tmp_path / "gone"})
    with pytest.raises(UnavailableError, match="install the package again"):
        resolve("nano")
    with pytest.raises(UsageError, match="comes with the package"):
        pull("nano")


def test_cached_names_need_no_owner(cache, files):
    snapshot = put_into_cache(cache, files)
    assert resolve(NAME) == resolve(REPOSITORY) == snapshot
    found = load_checkpoint(NAME)
    assert found.path == snapshot
    other = put_into_cache(cache, files, "somebody/tuned")
    assert resolve("somebody/tuned") == other
    jax = put_into_cache(cache, {"x.npz": b""}, f"{REPOSITORY}-jax")
    assert resolve(f"{NAME}-jax") == jax


def test_revisions(cache, files):
    put_into_cache(cache, files)
    half = put_into_cache(cache, files, reference="bfloat16", commit="d" * 40)
    request = put_into_cache(cache, files, reference="refs/pr/3", commit="e" * 40)
    assert resolve(NAME, "bfloat16") == resolve(NAME, "d" * 40) == half
    assert resolve(NAME, "refs/pr/3") == request
    expected = (
        f"{REPOSITORY} is not on this machine in revision float16; present: bfloat16, main, refs/pr/3; "
        f"run `paligemma pull {NAME} --revision float16`"
    )
    with pytest.raises(UnavailableError, match=expected):
        resolve(NAME, "float16")
    for wicked in ("../../x", "..", "/etc"):
        with pytest.raises(UnavailableError):
            resolve(NAME, wicked)


def test_not_downloaded_says_how_to(cache):
    expected = rf"not on this machine; run `paligemma pull {NAME}` after accepting the licence at https://huggingface.co/{REPOSITORY}"
    with pytest.raises(UnavailableError, match=expected):
        resolve(NAME)
    with pytest.raises(UnavailableError, match="run `paligemma pull somebody/tuned`, or give a directory"):
        resolve("somebody/tuned")


def test_an_incomplete_download_says_how_to_complete_it(cache):
    put_into_cache(cache, {"config.json": b"{}"})
    with pytest.raises(UnavailableError, match="without its weights; run `paligemma pull"):
        resolve(NAME)


def test_unknown_names_suggest_the_nearest(cache):
    with pytest.raises(UnavailableError, match="did you mean 'paligemma2-3b-mix-448'"):
        resolve("paligemma2-3b-mix448")
    with pytest.raises(UnavailableError, match="did you mean 'paligemma2-3b-mix-448'"):
        resolve("google/paligemma2-3b-mix448")
    with pytest.raises(UnavailableError, match="unknown model 'llava'"):
        resolve("llava")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"HF_HUB_CACHE": "/a"}, "/a"),
        ({"HF_HOME": "/b"}, "/b/hub"),
        ({"HF_HOME": "/b", "HF_HUB_CACHE": "/a"}, "/a"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/huggingface/hub"),
        ({"HOME": "/d"}, "/d/.cache/huggingface/hub"),
    ],
)
def test_the_cache_is_hugging_faces(monkeypatch, variables, expected):
    for name in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert hub.cache_directory() == Path(expected)


# --- pull, from a hub on this machine --------------------------------------------------------------------------------


class FakeHub(BaseHTTPRequestHandler):
    """Enough of the hub to download from; `server.state` says how it misbehaves and keeps what was asked."""

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", headers=None):
        self.send_response(status)
        for name, value in ({"Content-Length": len(body)} | (headers or {})).items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        state, path = self.server.state, self.path.split("?")[0]
        state["asked"].append((self.command, path, self.headers.get("Range")))
        if path.startswith("/bucket/"):
            body = state["bucket"]
            length = state.get("length", len(body or b""))
            return self.answer(404 if body is None else 200, body or b"", {"Content-Length": length})
        if state.get("refuse"):
            status, code = state["refuse"]
            return self.answer(status, b"{}", {"X-Error-Code": code})
        listing = [
            {"type": "file", "path": n, "rfilename": n, "size": len(b), "oid": hashlib.sha1(b).hexdigest()}
            for n, b in state["files"].items()
        ]
        if "/tree/" in path:
            return self.answer(200, json.dumps(listing).encode())
        if path.startswith("/api/models/"):
            return self.answer(200, json.dumps({"id": REPOSITORY, "sha": COMMIT, "siblings": listing}).encode())
        return self.send_file(state, path.rpartition("/")[2])

    def send_file(self, state, name):
        content = state["files"].get(name)
        if content is None:
            return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        start = int((self.headers.get("Range") or "bytes=0-")[6:].split("-")[0])
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if self.command == "GET" and name == state.get("break"):
            state["break"] = None
            headers["Content-Length"] = len(content) - start
            self.answer(200, content[start : start + 1000], headers)
            self.close_connection = True
            return None
        return self.answer(206 if start else 200, content[start:], headers)


@pytest.fixture
def fake(cache, files, monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    server.state = {"files": dict(files), "asked": []}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    yield server.state
    server.shutdown()
    server.server_close()


def downloaded(state):
    return [path.rpartition("/")[2] for command, path, _ in state["asked"] if command == "GET" and "/resolve/" in path]


def test_pulled_models_load(fake, cache, files):
    path = pull(NAME)
    assert path == resolve(NAME) == cache / f"models--google--{NAME}" / "snapshots" / COMMIT
    assert {p.name for p in path.iterdir()} == set(files) - {"pytorch_model.bin", "README.md"}
    assert load_checkpoint(NAME).config == TINY[1]


def test_a_second_pull_downloads_only_what_is_missing(fake, cache):
    path = pull(NAME)
    assert len(downloaded(fake)) == len(list(path.iterdir()))
    (path / "tokenizer.json").resolve().unlink()
    (path / "tokenizer.json").unlink()
    fake["asked"].clear()
    pull(REPOSITORY)
    assert set(downloaded(fake)) == {"tokenizer.json"}


def test_a_broken_connection_goes_on_where_it_stopped(fake, files, monkeypatch):
    name = next(n for n, b in files.items() if n.endswith(".safetensors") and len(b) > 2000)
    fake["break"] = name
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 500)  # what arrived is kept in such steps
    path = pull(NAME)
    assert (path / name).read_bytes() == files[name]
    ranges = [r for command, asked, r in fake["asked"] if command == "GET" and asked.endswith(name)]
    assert ranges == [None, "bytes=1000-"]


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        ((403, "GatedRepo"), f"licence to be accepted first: log in at https://huggingface.co/{REPOSITORY}, accept"),
        ((401, "GatedRepo"), "set HF_TOKEN"),
        ((404, "RepoNotFound"), "the hub has no"),
        ((404, "RevisionNotFound"), "has no revision 'x'"),
        ((500, ""), "could not be downloaded .* run the same command to go on"),
    ],
)
def test_refusals_are_explained(fake, refusal, said):
    fake["refuse"] = refusal
    with pytest.raises(UnavailableError, match=said):
        pull(NAME, "x")


def test_offline_is_respected(fake, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UnavailableError, match="HF_HUB_OFFLINE is set"):
        pull(NAME)
    assert fake["asked"] == []


def test_no_connection_is_explained(cache, monkeypatch, fake):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UnavailableError, match="check the connection"):
        pull(NAME)


@pytest.mark.parametrize("name", ["some where/x y", "paligemma2-3b-mix448"])
def test_impossible_names(fake, name):
    with pytest.raises(UnavailableError):
        pull(name)


def test_a_full_disk_is_no_connection_problem(fake, monkeypatch):
    from paligemma.errors import ResourceError

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("huggingface_hub.snapshot_download", full)
    with pytest.raises(ResourceError, match="free some space"):
        pull(NAME)


# --- the mask codec --------------------------------------------------------------------------------------------------

CODEC = next((Path(__file__).parents[1] / "data" / "golden" / "vae").glob("vae-*.npz")).read_bytes()


@pytest.fixture
def with_codec(fake, monkeypatch):
    fake["files"] = {"vae-oid.npz": CODEC, "app.py": b"a Space holds more"}
    fake["bucket"] = None
    monkeypatch.setattr(hub, "_CODEC_URL", f"{os.environ['HF_ENDPOINT']}/bucket/vae-oid.npz")
    monkeypatch.setenv("HF_ASSETS_CACHE", str(hub.cache_directory() / "assets"))
    return fake


def test_the_codec_is_pulled_from_the_space_alone(with_codec, cache, tmp_path):
    assert find_codec(tmp_path) is None
    path = pull("vae-oid")
    assert path.read_bytes() == CODEC
    assert path == find_codec(tmp_path) == cache / "spaces--big-vision--paligemma-hf/snapshots" / COMMIT / "vae-oid.npz"
    assert downloaded(with_codec) == ["vae-oid.npz"]
    with_codec["asked"].clear()
    assert pull("vae-oid") == path
    assert downloaded(with_codec) == []


@pytest.mark.parametrize("refusal", [(404, "RepoNotFound"), (404, "EntryNotFound"), (401, "GatedRepo")])
def test_the_codec_comes_from_the_bucket_where_the_space_fails(with_codec, tmp_path, refusal):
    with_codec["refuse"], with_codec["bucket"] = refusal, CODEC
    path = pull("vae-oid")
    assert path == find_codec(tmp_path) == hub.cache_directory() / "assets" / "paligemma" / "vae-oid.npz"
    assert path.read_bytes() == CODEC


def test_a_codec_that_cannot_be_had_is_explained(with_codec, tmp_path):
    with_codec["refuse"] = (404, "RepoNotFound")
    with pytest.raises(
        UnavailableError, match=r"neither from .*spaces/big-vision/paligemma-hf .* nor from .*HTTP Error 404"
    ):
        pull("vae-oid")
    with pytest.raises(UnavailableError, match="revision 'x' of the Space"):
        pull("vae-oid", "x")
    with_codec["bucket"], with_codec["length"] = CODEC[:1000], len(CODEC)
    with pytest.raises(UnavailableError, match=r"1,000 of .* bytes came"):
        pull("vae-oid")
    assert find_codec(tmp_path) is None


def test_what_comes_is_checked(with_codec, tmp_path):
    with_codec["refuse"], with_codec["bucket"] = (404, "RepoNotFound"), b"<html>please log in</html>"
    with pytest.raises(CheckpointError, match="no sound npz archive"):
        pull("vae-oid")
    assert find_codec(tmp_path) is None
    assert list((hub.cache_directory() / "assets" / "paligemma").iterdir()) == []


def test_the_codec_is_no_model_and_respects_offline(with_codec, monkeypatch):
    with pytest.raises(UnavailableError, match="the mask codec and no model"):
        resolve("vae-oid")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UnavailableError, match="HF_HUB_OFFLINE is set"):
        pull("vae-oid")
    assert with_codec["asked"] == []
