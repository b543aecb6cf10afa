"""Images and the stack cannot be started in a test; what can be said about them without an engine is said here."""

import importlib.util
import inspect
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from forecastle.runtime.inventory import resolve

ROOT = Path(__file__).parents[2]
OURS = {"forecastle:serving": "serving", "forecastle:training": "training"}


def yaml(name: str) -> Any:
    return YAML(typ="safe").load(ROOT / name)


def stages() -> dict[str, list[tuple[str, str]]]:
    """Stage name -> its instructions, those of the stages it is built from first."""
    text = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    found: dict[str, list[tuple[str, str]]] = {}
    current: list[tuple[str, str]] = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        word, _, rest = line.partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            current = found[name] = [*found.get(base, [("FROM", base)])]
        else:
            current.append((word, rest.strip()))
    return found


STACK = yaml("compose.yaml")
SERVICES: dict[str, dict[str, Any]] = STACK["services"]


@pytest.mark.parametrize("stage", ["serving", "training"])
def test_an_image_runs_as_a_numbered_user_who_is_not_root(stage: str) -> None:
    users = [rest for word, rest in stages()[stage] if word == "USER"]
    assert users[-1] == "10001:10001"
    assert ("ENTRYPOINT", '["forecastle"]') in stages()[stage]
    words = [word for word, _ in stages()[stage]]
    assert words.index("USER") > max(i for i, word in enumerate(words) if word in {"RUN", "COPY"})


def test_the_serving_image_has_a_health_check_and_no_torch() -> None:
    serving = stages()["serving"]
    (health,) = [rest for word, rest in serving if word == "HEALTHCHECK"]
    assert health.endswith('CMD ["forecastle", "check", "--health"]')
    sources = [rest for word, rest in serving if word == "COPY" and "--from=" in rest]
    assert [re.search(r"--from=(\S+)", rest)[1] for rest in sources] == ["packages"]  # type: ignore[index]
    installed = " ".join(rest for word, rest in stages()["packages"] if word == "RUN")
    assert "[stream,keda]" in installed
    assert "[train]" not in installed
    assert "[train]" in " ".join(rest for word, rest in stages()["training-packages"] if word == "RUN")


def test_images_are_built_from_pinned_bases_with_the_pinned_versions() -> None:
    for name, instructions in stages().items():
        assert re.fullmatch(r"python:3\.11-slim-\w+", instructions[0][1]), name
        for word, rest in instructions:
            assert word != "ADD"
            if word == "RUN" and "pip install" in rest:
                assert "--constraint /opt/constraints.txt" in rest
    for name, service in SERVICES.items():
        assert re.search(r":(v?\d+(\.\d+)*|serving|training)$", service["image"]), f"{name}: pin the image"


def test_everything_copied_exists_and_passes_the_ignore_file() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    let_through = {line[1:] for line in ignored if line.startswith("!")}
    copied = {
        source
        for instructions in stages().values()
        for word, rest in instructions
        if word == "COPY" and "--from=" not in rest
        for source in shlex.split(rest)[:-1]
    }
    assert copied == let_through
    assert all((ROOT / source).exists() for source in copied)


def test_our_services_are_hardened_and_built_from_existing_stages() -> None:
    ours = {name: service for name, service in SERVICES.items() if service["image"] in OURS}
    assert {"worker", "trainer", "deployments", "mlflow", "prefect"} == set(ours)
    for name, service in ours.items():
        assert service["build"]["target"] == OURS[service["image"]] in stages(), name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name


def test_ports_stay_on_the_loopback_and_secrets_come_from_outside() -> None:
    for name, service in SERVICES.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        for variable, value in service.get("environment", {}).items():
            if "PASSWORD" in variable:
                assert re.fullmatch(r"\$\{\w+:\?[^}]+\}", value), f"{name}: {variable}"


def test_what_services_refer_to_exists() -> None:
    for name, service in SERVICES.items():
        assert set(service.get("depends_on", {})) <= set(SERVICES), name
        other = service.get("network_mode", "service:kafka")
        assert other.removeprefix("service:") in SERVICES, name
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            known = (ROOT / source).exists() if source.startswith("./") else source in STACK["volumes"]
            assert known, f"{name}: {volume}"


def test_whoever_speaks_plain_text_to_kafka_is_on_its_loopback() -> None:
    speakers = [name for name, service in SERVICES.items() if "FORECASTLE_INTAKE__BOOTSTRAP" in service.get("environment", {})]
    assert "worker" in speakers
    for name in set(speakers) - {"deployments"}:
        assert SERVICES[name]["network_mode"] == "service:kafka", name
        assert SERVICES[name]["environment"]["FORECASTLE_INTAKE__BOOTSTRAP"].startswith("127.0.0.1:")


def test_python_modules_named_by_services_exist() -> None:
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    modules = set(re.findall(r"-m,? ((?:forecastle|flows)[\w.]*)", text))
    assert "flows.automations" in modules
    for module in modules:
        assert importlib.util.find_spec(module), module


def test_unattended_trainings_learn_nothing_from_what_the_ledger_had_to_heal() -> None:
    from flows.automations import WAKES

    (nightly,) = [one for one in yaml("prefect.yaml")["deployments"] if one["name"] == "train"]
    woken = [parameters for _, deployment, parameters, _ in WAKES.values() if deployment == "train/train"]
    assert nightly["schedules"]
    assert [one["incidents"] for one in (nightly["parameters"], *woken)] == ["ledger", "ledger"]


def test_deployments_name_flows_pools_and_parameters_that_exist() -> None:
    from prefect.flows import Flow

    from flows.serve import FLOWS

    deployments = yaml("prefect.yaml")["deployments"]
    assert sorted(d["name"] for d in deployments) == sorted(FLOWS)
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    for deployment in deployments:
        found = resolve(deployment["entrypoint"])
        assert isinstance(found, Flow)
        assert deployment["entrypoint"] == f"flows.{deployment['name']}:{deployment['name']}"
        inspect.signature(found.fn).bind(**deployment["parameters"])
        pool = deployment["work_pool"]["name"]
        assert f"work-pool create --type process --overwrite {pool}\n" in text
        assert re.search(rf"--pool, {pool}\b", text), f"no service works for the pool {pool}"


def test_one_training_runs_at_a_time_whatever_wakes_it() -> None:
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy

    (train,) = (one for one in yaml("prefect.yaml")["deployments"] if one["name"] == "train")
    found = ConcurrencyLimitConfig.model_validate(train["concurrency_limit"])
    assert (found.limit, found.collision_strategy) == (1, ConcurrencyLimitStrategy.CANCEL_NEW)


def test_prometheus_scrapes_services_of_the_stack() -> None:
    jobs = yaml("deploy/prometheus/prometheus.yml")["scrape_configs"]
    targets = [target for job in jobs for config in job["static_configs"] for target in config["targets"]]
    assert {target.partition(":")[0] for target in targets} <= {*SERVICES, "localhost"}


def test_the_collector_writes_the_topic_that_a_codec_reads() -> None:
    from forecastle.settings import IntakeSettings

    exporter = yaml("deploy/otel-collector/config.yaml")["exporters"]["kafka"]
    assert IntakeSettings().codecs[exporter["metrics"]["topic"]] == exporter["metrics"]["encoding"]


def test_dashboards_are_found_and_ask_known_sources() -> None:
    sources = {s["uid"]: s["type"] for s in yaml("deploy/grafana/provisioning/datasources/forecastle.yaml")["datasources"]}
    (provider,) = yaml("deploy/grafana/provisioning/dashboards/forecastle.yaml")["providers"]
    mounts = {volume.split(":")[1] for volume in SERVICES["grafana"]["volumes"]}
    assert provider["options"]["path"] in mounts
    dashboards = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
    assert dashboards
    for path in dashboards:
        panels = json.loads(path.read_text(encoding="utf-8"))["panels"]
        assert panels
        for panel in panels:
            assert sources[panel["datasource"]["uid"]] == panel["datasource"]["type"]
