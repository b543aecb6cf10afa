"""Configuration: precedence, strictness and errors that name file, line and fix."""

from pathlib import Path

import pytest

from forecastle.errors import ConfigError
from forecastle.runtime.config import load
from forecastle.settings import Settings


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def refused(*paths: Path, environment: dict[str, str] | None = None, flags: tuple[str, ...] = ()) -> str:
    with pytest.raises(ConfigError) as caught:
        load(paths, environment=environment or {}, flags=flags)
    return str(caught.value)


def test_nothing_given_is_the_defaults() -> None:
    assert load(environment={}) == Settings()


def test_later_sources_win_over_earlier_ones(tmp_path: Path) -> None:
    first = write(tmp_path, "a.yaml", "window:\n  step_s: 10\n  look_back: 100\n  stale_s: 11\n  idle_s: 12\n")
    second = write(tmp_path, "b.yaml", "window:\n  look_back: 200\n  stale_s: 21\n  idle_s: 22\n")
    settings = load(
        [first, second],
        environment={"FORECASTLE_WINDOW__STALE_S": "31", "FORECASTLE_WINDOW__IDLE_S": "32", "HOME": "/"},
        flags=["window.idle_s=42"],
    )
    assert (settings.window.step_s, settings.window.look_back) == (10, 200)
    assert (settings.window.stale_s, settings.window.idle_s) == (31, 42)


def test_variables_that_are_not_settings_are_left_alone() -> None:
    assert load(environment={"FORECASTLE_DATA": "/data", "FORECASTLE_KILL": ""}) == Settings()


def test_a_folder_is_base_then_fleet_then_policies_and_playbooks(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "fleet:\n  sites:\n    - {name: a, provider: p, region: r}\n")
    write(tmp_path, "fleet/more.yaml", "fleet:\n  sites:\n    - {name: b, provider: p, region: r}\n")
    write(tmp_path, "playbooks/x.yaml", "playbooks:\n  - {name: leak, kinds: [trend], action: restart}\n")
    write(tmp_path, "local.yaml", "not: read\n")
    settings = load([tmp_path], environment={})
    assert [site.name for site in settings.fleet.sites] == ["a", "b"]
    assert settings.playbooks[0].action == "restart"


def test_an_unknown_name_says_line_and_the_nearest_valid_one(tmp_path: Path) -> None:
    path = write(tmp_path, "c.yaml", "guards:\n  step_up_s: 60\n  step_up_fractoin: 0.5\n")
    assert refused(path) == f"{path}:3: guards.step_up_fractoin: unknown name; did you mean 'step_up_fraction'?"


def test_an_unknown_name_in_the_second_files_list_points_there(tmp_path: Path) -> None:
    one = write(tmp_path, "1.yaml", "fleet:\n  sites:\n    - {name: a, provider: p, region: r}\n")
    two = write(tmp_path, "2.yaml", "fleet:\n  sites:\n    - name: b\n      provider: p\n      regoin: r\n      region: r\n")
    message = refused(one, two)
    assert message.startswith(f"{two}:5: fleet.sites.1.regoin")
    assert "did you mean 'region'?" in message


def test_an_unknown_variable_or_flag_is_refused_by_name() -> None:
    assert "$FORECASTLE_WINDOW__STEPS: window.steps: unknown name" in refused(environment={"FORECASTLE_WINDOW__STEPS": "1"})
    assert "--set window.steps: window.steps: unknown name" in refused(flags=("window.steps=1",))
    assert "write --set section.field=value" in refused(flags=("window.step_s",))


def test_variables_and_flags_can_spell_lists_and_mappings() -> None:
    settings = load([], environment={"FORECASTLE_INTAKE__TOPICS": "[a, b]"}, flags=["intake.codecs={a: json, b: otlp_proto}"])
    assert settings.intake.topics == ("a", "b")
    assert settings.intake.codecs == {"a": "json", "b": "otlp_proto"}
    with pytest.raises(ConfigError, match=r"--set intake.topics:1: is not YAML"):
        load([], environment={}, flags=["intake.topics=[a, b"])


def test_every_problem_is_listed_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, "c.yaml", "window:\n  step_s: -1\nguards:\n  quorum: two\n")
    message = refused(path)
    assert f"{path}:2: window.step_s" in message
    assert f"{path}:4: guards.quorum" in message
    assert "given -1" in message
    assert "given 'two'" in message


def test_a_missing_field_points_at_its_parent(tmp_path: Path) -> None:
    path = write(tmp_path, "c.yaml", "fleet:\n  sites:\n    - name: a\n      provider: p\n")
    assert refused(path) == f"{path}:3: fleet.sites.0.region: is missing; add 'region: ...'"


def test_a_duplicate_key_is_refused_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, "c.yaml", "window:\n  step_s: 1\n  step_s: 2\n")
    message = refused(path)
    assert message.startswith(f"{path}:3: ")
    assert "duplicate key" in message


def test_times_are_text_and_words_are_no_booleans(tmp_path: Path) -> None:
    path = write(tmp_path, "c.yaml", "runtime:\n  worker: 22:30\nintake:\n  group: on\n")
    settings = load([path], environment={})
    assert settings.runtime.worker == "22:30"
    assert settings.intake.group == "on"


def test_a_yaml_bomb_is_refused_before_it_unfolds(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    path = write(tmp_path, "c.yaml", "\n".join(lines))
    assert refused(path).startswith(f"{path}:2: aliases (*a0) are refused")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("- a\n- b\n", "not a mapping"),
        ("window: [1\n", "is not YAML"),
        ("window: {step_s: !!python/object:os.system 1}\n", "c.yaml"),
        ("a: " + "[" * 300, "is not YAML"),
        ("a: " + "[" * 300 + "]" * 300, "is nested too deeply"),
    ],
)
def test_what_is_not_configuration_is_refused(tmp_path: Path, content: str, says: str) -> None:
    assert says in refused(write(tmp_path, "c.yaml", content))


def test_unreadable_files_are_refused_with_the_reason(tmp_path: Path) -> None:
    assert "cannot be read" in refused(tmp_path / "absent.yaml")
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    assert "is not UTF-8" in refused(binary)
