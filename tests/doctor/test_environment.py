import json

from paligemma.doctor import environment


def test_the_facts_are_plain_and_name_what_the_package_needs():
    facts = environment.describe()
    assert json.loads(json.dumps(facts)) == facts
    assert all(facts["versions"][name] for name in environment.NEEDED)
    assert facts["threads"] >= 1


def test_the_cpu_is_a_device_and_knows_float32():
    cpu = environment.devices()[0]
    assert cpu["name"] == "cpu"
    assert "float32" in cpu["dtypes"]


def test_a_device_that_is_none_knows_no_type():
    assert environment.dtypes("meta") == []


def test_a_missing_package_and_a_missing_model_are_problems():
    versions = dict.fromkeys(environment.NEEDED, "1.0")
    assert environment.problems({"versions": versions, "bundled_model": True}) == []
    found = environment.problems({"versions": {**versions, "torch": None}, "bundled_model": False})
    assert len(found) == 2
    assert "pip install torch" in found[0]
    assert "nano" in found[1]


def test_the_version_of_a_package_that_does_not_exist_is_none():
    assert environment.version_of("no-such-package-at-all") is None


def test_the_hub_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert environment.describe()["hub_cache"] == str(tmp_path)
