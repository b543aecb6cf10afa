"""Only the files that were published ever serve: cut, changed, swapped or foreign ones do not, and say so."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from forecastle.errors import ConfigError, ModelRefused, NotFound, RegistryUnavailable
from forecastle.ports import Artifact
from forecastle.predict.artifacts import MANIFEST, MODEL, cached, keep, plain, point, pointed, replace_text, sha256, stage
from forecastle.predict.folder import REMEMBERED, DirectoryRegistry, earlier, row
from forecastle.predict.naive import QUANTILES
from forecastle.predict.onnx import OnnxForecaster
from forecastle.predict.trial import external

sys.path.insert(0, str(Path(__file__).parent))
import forecaster_worlds as worlds


def exported(folder: Path, name: str = "new.onnx", content: bytes = b"") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(content or worlds.model().SerializeToString())
    return path


def opened(artifact: Artifact) -> OnnxForecaster:
    return OnnxForecaster(artifact, step_ms=worlds.STEP, horizon=worlds.HORIZON, quantiles=QUANTILES)


@pytest.fixture
def registry(tmp_path: Path) -> DirectoryRegistry:
    registry = DirectoryRegistry(tmp_path / "registry")
    registry.publish("m", exported(tmp_path), worlds.manifest(), {"crps": 1})
    return registry


def version(registry: DirectoryRegistry, number: str = "1") -> Path:
    return registry.path / "m" / "versions" / number


HARMS = {
    "cut in half": lambda data: data[: len(data) // 2],
    "emptied": lambda _: b"",
    "one bit flipped": lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:],
    "lengthened": lambda data: data + b"\0",
    "replaced": lambda _: worlds.model(table=worlds.SPREAD[None].repeat(worlds.HORIZON, 0) * 2).SerializeToString(),
}


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("file", [MODEL, MANIFEST])
def test_a_file_harmed_in_the_registry_never_reaches_the_cache(
    registry: DirectoryRegistry, tmp_path: Path, harm: str, file: str
) -> None:
    path = version(registry) / file
    path.write_bytes(HARMS[harm](path.read_bytes()))
    with pytest.raises(ModelRefused, match="publish it again"):
        registry.pull("m", "1", tmp_path / "cache")
    assert [one for one in (tmp_path / "cache").rglob("*") if one.is_file()] == []


@pytest.mark.parametrize("harm", HARMS)
def test_a_model_harmed_in_the_cache_is_refused_by_the_reader_and_mended_by_the_next_pull(
    registry: DirectoryRegistry, tmp_path: Path, harm: str
) -> None:
    cache = tmp_path / "cache"
    artifact = registry.pull("m", "1", cache)
    whole = artifact.path.read_bytes()
    artifact.path.write_bytes(HARMS[harm](whole))
    with pytest.raises(ModelRefused, match="not what its name says"):
        cached(cache, "m", "1", artifact.sha256)
    assert registry.pull("m", "1", cache).path.read_bytes() == whole
    assert cached(cache, "m", "1", artifact.sha256) == artifact


def test_two_versions_whose_files_were_swapped_are_both_refused(registry: DirectoryRegistry, tmp_path: Path) -> None:
    other = worlds.model(table=worlds.SPREAD[None].repeat(worlds.HORIZON, 0) * 3).SerializeToString()
    registry.publish("m", exported(tmp_path, content=other), worlds.manifest(), {})
    one, two = version(registry, "1") / MODEL, version(registry, "2") / MODEL
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    for number in ("1", "2"):
        with pytest.raises(ModelRefused, match="digests"):
            registry.pull("m", number, tmp_path / "cache")


def test_two_models_whose_folders_were_swapped_in_the_cache_are_both_refused(tmp_path: Path) -> None:
    digests = [worlds.put(tmp_path, worlds.model(look_back=n), look_back=n) for n in (16, 32)]
    folders = [tmp_path / "forecaster" / digest for digest in digests]
    folders[0].rename(tmp_path / "aside")
    folders[1].rename(folders[0])
    (tmp_path / "aside").rename(folders[1])
    for digest in digests:
        with pytest.raises(ModelRefused, match="remove the folder"):
            cached(tmp_path, "forecaster", "1", digest)


def test_a_manifest_of_another_model_does_not_load(tmp_path: Path) -> None:
    digest = worlds.put(tmp_path, worlds.model(look_back=16), look_back=16)
    manifest = tmp_path / "forecaster" / digest / MANIFEST
    manifest.write_text(json.dumps(worlds.manifest(look_back=32)))
    with pytest.raises(ModelRefused, match="trial run"):
        opened(cached(tmp_path, "forecaster", "1", digest))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", '"text"'])
def test_a_cached_manifest_that_is_no_table_is_refused(tmp_path: Path, text: str) -> None:
    digest = worlds.put(tmp_path, worlds.model())
    (tmp_path / "forecaster" / digest / MANIFEST).write_text(text)
    with pytest.raises(ModelRefused, match="pull the model again"):
        cached(tmp_path, "forecaster", "1", digest)


@pytest.mark.parametrize("file", [MODEL, MANIFEST])
def test_a_cached_model_of_which_a_file_is_gone_is_refused(tmp_path: Path, file: str) -> None:
    digest = worlds.put(tmp_path, worlds.model())
    (tmp_path / "forecaster" / digest / file).unlink()
    with pytest.raises(ModelRefused, match="cannot be read"):
        cached(tmp_path, "forecaster", "1", digest)


def test_weights_in_another_file_are_refused_though_the_digest_is_right(tmp_path: Path) -> None:
    digest = worlds.put(tmp_path, worlds.external_model())
    artifact = cached(tmp_path, "forecaster", "1", digest)
    (artifact.path.parent / "passwd").write_bytes(b"\0" * 64)
    with pytest.raises(ModelRefused, match="external_data=False"):
        opened(artifact)


@pytest.mark.parametrize("length", range(1, 60, 7))
def test_a_truncated_graph_is_never_taken_for_one_without_external_data(length: int) -> None:
    data = worlds.external_model().SerializeToString()
    try:
        found = external(data[:-length])
    except ValueError:
        return
    assert found or length > 40, "a message that ends on a field's boundary is whole; one cut within is not"


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '{"version": "1"}', '{"sha256": "ab"}', '{"version": "1", "sha256": "../.."}', "\0"]
)
def test_a_pointer_that_is_none_says_to_remove_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "champion.json").write_text(text)
    with pytest.raises(ModelRefused, match="remove it and pull again"):
        pointed(tmp_path, "m", "champion")


def test_no_pointer_is_no_model(tmp_path: Path) -> None:
    assert pointed(tmp_path, "m", "champion") is None


def test_a_pointer_names_the_artifact_it_was_given(registry: DirectoryRegistry, tmp_path: Path) -> None:
    artifact = registry.pull("m", "1", tmp_path / "cache")
    for alias in ("champion", "challenger"):
        point(tmp_path / "cache", "m", alias, artifact)
        assert pointed(tmp_path / "cache", "m", alias) == ("1", artifact.sha256)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc", "-x", "a\nb", "ü", "a" * 129, " a"])
def test_names_that_could_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    for ask in (lambda: plain(name), lambda: pointed(tmp_path, name, "champion"), lambda: pointed(tmp_path, "m", name)):
        with pytest.raises(ConfigError, match="use letters, digits"):
            ask()


@pytest.mark.parametrize("name", ["a", "forecaster", "shop.v2", "A_b-c.9", "a" * 128])
def test_ordinary_names_are_kept(name: str) -> None:
    assert plain(name) == name


@pytest.mark.parametrize(
    "tags", [{}, {"sha256": "ab" * 32}, {"sha256": "AB" * 32, "manifest_sha256": "cd" * 32}, {"sha256": None}]
)
def test_a_version_without_both_digests_is_not_even_fetched(tmp_path: Path, tags: dict) -> None:
    fetched: list[Path] = []
    with pytest.raises(ModelRefused, match="carries no digests"):
        keep(tmp_path, "m", "1", tags, fetched.append)
    assert fetched == []


def test_a_fetch_that_breaks_leaves_nothing_behind_and_the_next_one_works(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    tags = stage(source, exported(tmp_path), worlds.manifest(), {})

    def torn(folder: Path) -> None:
        shutil.copyfile(source / MODEL, folder / MODEL)
        raise RegistryUnavailable("the line went dead", retry_after=1)

    with pytest.raises(RegistryUnavailable):
        keep(tmp_path / "cache", "m", "1", tags, torn)
    assert list((tmp_path / "cache").rglob("*.*")) == []
    kept = keep(tmp_path / "cache", "m", "1", tags, lambda folder: shutil.copytree(source, folder, dirs_exist_ok=True))
    assert (kept.sha256, sha256(kept.path)) == (tags["sha256"],) * 2


def test_digests_are_of_the_published_files_and_metrics_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    tags = stage(tmp_path / "out", exported(tmp_path), {"b": 1, "a": [2]}, {"crps": 3})
    assert tags["sha256"] == sha256(tmp_path / "new.onnx")
    assert tags["manifest_sha256"] == sha256(tmp_path / "out" / MANIFEST)
    assert json.loads((tmp_path / "out" / MANIFEST).read_text()) == {"a": [2], "b": 1}
    assert isinstance(tags["metrics"]["crps"], float)


def test_the_order_of_a_manifests_keys_does_not_change_its_digest(tmp_path: Path) -> None:
    made = []
    for name, manifest in (("one", {"a": 1, "b": 2}), ("two", {"b": 2, "a": 1})):
        (tmp_path / name).mkdir()
        made.append(stage(tmp_path / name, exported(tmp_path), manifest, {}))
    assert made[0] == made[1]


def test_a_reader_sees_the_old_text_or_the_new_one_never_a_part(tmp_path: Path) -> None:
    path, texts, stop, seen = tmp_path / "deep" / "text", ("a" * 100_000, "b" * 100_000), threading.Event(), set()
    replace_text(path, texts[0])

    def read() -> None:
        while not stop.is_set():
            seen.add(path.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for k in range(40):
        replace_text(path, texts[k % 2])
    stop.set()
    reader.join(30)
    assert seen
    assert seen <= set(texts)
    assert [one.name for one in path.parent.iterdir()] == ["text"]


def test_workers_that_pull_at_once_get_the_same_whole_file(registry: DirectoryRegistry, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        pulled = list(pool.map(lambda _: DirectoryRegistry(registry.path).pull("m", "1", tmp_path / "cache"), range(12)))
    (folder,) = (tmp_path / "cache" / "m").iterdir()
    assert {one.sha256 for one in pulled} == {folder.name} == {sha256(folder / MODEL)}
    assert sorted(one.name for one in folder.iterdir()) == [MANIFEST, MODEL]


@pytest.mark.parametrize("file", ["version.json", MODEL, MANIFEST])
def test_a_version_that_lost_a_file_is_not_found(registry: DirectoryRegistry, tmp_path: Path, file: str) -> None:
    (version(registry) / file).unlink()
    with pytest.raises(NotFound, match="models list"):
        registry.pull("m", "1", tmp_path / "cache")


def test_a_version_whose_tags_are_torn_is_an_outage_that_names_the_folder(registry: DirectoryRegistry, tmp_path: Path) -> None:
    (version(registry) / "version.json").write_text('{"sha256": ')
    for ask in (lambda: registry.pull("m", "1", tmp_path / "cache"), lambda: registry.versions("m")):
        with pytest.raises(RegistryUnavailable, match=r"predict\.registry"):
            ask()


@pytest.mark.parametrize("number", ["", "x", "-1", "1.0", "../1", "1/../../m/versions/1"])
def test_versions_are_numbers(registry: DirectoryRegistry, tmp_path: Path, number: str) -> None:
    with pytest.raises(NotFound, match="versions are numbers"):
        registry.pull("m", number, tmp_path / "cache")


def test_only_so_many_promotions_are_remembered(registry: DirectoryRegistry, tmp_path: Path) -> None:
    registry.publish("m", exported(tmp_path), worlds.manifest(), {})
    for k in range(REMEMBERED + 10):
        registry.promote("m", str(1 + k % 2), "champion")
    history = registry.path / "m" / "aliases" / ".champion.history"
    assert len(history.read_text().split()) == REMEMBERED
    assert registry.rollback("m", "champion") == ("2", "1")


@pytest.mark.parametrize(
    ("history", "now", "left"),
    [
        (["1", "2"], "2", ["1"]),
        (["1", "2", "2"], "2", ["1"]),
        (["1", "2"], "3", ["1", "2"]),
        (["3", "1", "3"], "3", ["3", "1"]),
    ],
)
def test_rolling_back_goes_to_the_last_that_was_another(history: list[str], now: str, left: list[str]) -> None:
    assert earlier("m@champion", history, now) == left


@pytest.mark.parametrize("history", [[], ["1"], ["1", "1"]])
def test_there_is_nothing_before_the_first(history: list[str]) -> None:
    with pytest.raises(NotFound, match="nothing to roll back to"):
        earlier("m@champion", history, "1")


def test_metrics_are_told_alike_whether_kept_as_text_or_table() -> None:
    kept = {"sha256": "ab", "metrics": {"crps": 1.0}}
    text = kept | {"metrics": '{"crps": 1.0}'}
    pointed_at = {"b": "1", "a": "1", "c": "2"}
    assert row("1", pointed_at, kept, "now") == row("1", pointed_at, text, "now")
    assert row("1", pointed_at, kept, "now")["aliases"] == ["a", "b"]
