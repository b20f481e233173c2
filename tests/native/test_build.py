"""Compiling once, for this processor, and living without a compiler."""

import os
import subprocess
import sys

import pytest

from paligemma.native import build as building
from paligemma.native import status


@pytest.fixture
def no_memory():
    """What is known about the library in this process is forgotten, before and after."""
    building._found.cache_clear()
    yield
    building._found.cache_clear()


def test_the_second_time_nothing_is_compiled(tmp_path, monkeypatch):
    first = building.build(tmp_path)
    monkeypatch.setattr(building, "_compile", lambda *_: pytest.fail("compiled again"))
    assert building.build(tmp_path).path == first.path
    assert [path.name for path in tmp_path.iterdir()] == [first.path.name]


def test_another_processor_compiles_anew(tmp_path, monkeypatch):
    first = building.build(tmp_path)
    monkeypatch.setattr(building, "_processor", lambda: "flags: of something else")
    assert building.build(tmp_path).path != first.path


def test_each_branch_says_its_name(tmp_path):
    assert building.build(tmp_path, "-DNO_AVX512", "-DNO_AVX2").branch == "portable"
    assert building.build(tmp_path).branch in ("avx512vnni", "avx2", "portable")


def test_switched_off(monkeypatch, no_memory):
    monkeypatch.setenv("PALIGEMMA_NATIVE", "0")
    assert building.library() is None
    assert "PALIGEMMA_NATIVE" in status()


def test_without_a_compiler(tmp_path, monkeypatch, no_memory):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    assert building.library() is None
    assert "no C compiler" in status()
    assert "gcc" in status()


def test_a_compiler_that_fails(tmp_path, monkeypatch, no_memory):
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho out of luck >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert building.library() is None
    assert "out of luck" in status()
    assert list((tmp_path / "cache" / "paligemma" / "native").iterdir()) == []


def test_a_compiler_that_takes_less_is_told(tmp_path, monkeypatch, no_memory):
    real, compiler = building._compiler(), tmp_path / "cc"
    refuse = 'case "$*" in *-fopenmp*) echo no OpenMP here >&2; exit 1;; esac'
    compiler.write_text(f'#!/bin/sh\n{refuse}\nexec {real} "$@"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for _ in range(2):  # compiled, then loaded
        building._found.cache_clear()
        assert building.library().branch in status()
        assert status().endswith("refused -march=native -fopenmp (no OpenMP here)")


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch, no_memory):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert building.library() is None
    assert "cannot be kept" in status()


def test_a_damaged_library_is_made_again(tmp_path):
    path = tmp_path / f"{building._fingerprint(building._compiler(), ())}.so"
    path.write_bytes(b"no library")
    assert building.build(tmp_path).branch
    assert path.stat().st_size > 1000


def test_two_processes_at_once(tmp_path):
    code = "from paligemma.native import status; print(status())"
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    running = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate()[0] for process in running]
    assert said[0] == said[1]
    assert str(tmp_path) in said[0]


def test_importing_compiles_nothing(tmp_path):
    code = "import paligemma.native, paligemma.linear.packed"
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_one_openmp_runtime():
    """A second one would have threads of its own, and both would wait for the same cores."""
    code = "from paligemma.native import library; library(); print(open('/proc/self/maps').read())"
    mapped = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    runtimes = {line.split()[-1] for line in mapped.splitlines() if "omp" in line.rpartition("/")[2]}
    assert len(runtimes) <= 1
