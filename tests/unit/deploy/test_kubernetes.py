"""What the overlays of `deploy/kubernetes` render to: valid for Kubernetes, and true of the program that they run."""

import base64
import functools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate.utils as kubernetes_schemas
import pytest
import yaml
from starlette.applications import Starlette

from cluster import cli, config, environment, service, serving
from cluster.admin import Readiness, admin_app
from cluster.config import Loaded
from cluster.ports import ADMIN_ABOVE
from cluster.redis_client import Store
from cluster.settings import WITHOUT_EFFECT, Redis, keys
from node.doors import DRAIN_S
from tests.support.kustomize import KUBERNETES, Object

VERSIONS = ("1.27", "1.30", "1.33", "1.37")
CRDS = {"ServiceMonitor"}
SETTLE_S = 2.0  # of a node's drain, for what is still to be said to Redis
REDIS_PORT = 6379
DNS_PORT = 53

pytestmark = pytest.mark.usefixtures("_read_once")


@pytest.fixture(scope="module")
def _read_once() -> Iterator[None]:
    """The schemas are megabytes, and are read again for each object."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kubernetes_schemas, "schema_contents", functools.cache(kubernetes_schemas.schema_contents))
        yield


def named(objects: list[Object], kind: str) -> dict[str, Object]:
    return {found["metadata"]["name"]: found for found in objects if found["kind"] == kind}


def workloads(objects: list[Object]) -> dict[str, Object]:
    return {**named(objects, "Deployment"), **named(objects, "StatefulSet")}


def pods(objects: list[Object]) -> dict[str, Any]:
    return {name: workload["spec"]["template"]["spec"] for name, workload in workloads(objects).items()}


def ours(objects: list[Object]) -> dict[str, Any]:
    """Our own containers, by role."""
    found = {name.removeprefix("agent-server-"): pod for name, pod in pods(objects).items()}
    return {role: found[role]["containers"][0] for role in ("node", "router")}


def settings_of(objects: list[Object], folder: Path) -> tuple[Loaded, Path]:
    """What a pod's files and variables give."""
    [text] = [data["data"]["config.yaml"] for name, data in named(objects, "ConfigMap").items() if "-config-" in name]
    path = folder / "config.yaml"
    path.write_text(text)
    return config.load(str(path), environ=secrets(objects)), path


def secrets(objects: list[Object]) -> dict[str, str]:
    [secret] = named(objects, "Secret").values()
    return {name: base64.b64decode(value).decode() for name, value in secret["data"].items()}


@functools.cache
def admin_paths() -> set[str]:
    """What the admin port of a process serves."""
    app = admin_app(Readiness(Store(Redis())), bytes)._app
    assert isinstance(app, Starlette)
    return {str(route.path) for route in app.routes if hasattr(route, "path")}


# ---- Kubernetes takes it


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_knows_every_field(objects: list[Object], version: str) -> None:
    for found in objects:
        if found["kind"] not in CRDS:
            kubernetes_schemas.validate(found, version, strict=True)


def test_what_is_named_is_there(objects: list[Object]) -> None:
    rendered = {(found["kind"], found["metadata"]["name"]) for found in objects}
    for name, pod in pods(objects).items():
        wanted = {("ServiceAccount", pod["serviceAccountName"])}
        wanted |= {("ConfigMap", v["configMap"]["name"]) for v in pod["volumes"] if "configMap" in v}
        for container in pod["containers"]:
            wanted |= {("Secret", source["secretRef"]["name"]) for source in container.get("envFrom", ())}
            sources = [variable.get("valueFrom", {}) for variable in container.get("env", ())]
            wanted |= {("Secret", s["secretKeyRef"]["name"]) for s in sources if "secretKeyRef" in s}
        assert wanted <= rendered, name
    for variable in re.findall(r'"secretKeyRef": {"key": "(\w+)"', json.dumps(objects, sort_keys=True)):
        assert variable in secrets(objects)


def test_everything_is_in_one_namespace(objects: list[Object]) -> None:
    [namespace] = named(objects, "Namespace")
    assert {found["metadata"].get("namespace", namespace) for found in objects} == {namespace}


# ---- it is true of the program


def test_each_setting_is_known_and_has_an_effect(objects: list[Object], tmp_path: Path) -> None:
    loaded, _ = settings_of(objects, tmp_path)
    assert loaded.warnings == ()
    assert loaded.settings.redis.enabled
    assert not set(loaded.given) & set(WITHOUT_EFFECT)
    known = {name for key in keys().values() for name in environment.names_of(key)}
    assert set(secrets(objects)) <= known


def test_each_process_understands_its_arguments(
    objects: list[Object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, path = settings_of(objects, tmp_path)
    for name, value in secrets(objects).items():
        monkeypatch.setenv(name, value)
    pod = "agent-server-router-7c9f8d6b5f-x2x4z"
    for role, container in ours(objects).items():
        command, *arguments = (argument.replace("$(POD_NAME)", pod) for argument in container["args"])
        assert command == role
        assert arguments[-2:] == ["--config", "/etc/agent-server/config.yaml"]
        options = service.parse(role, [*arguments[:-1], str(path)])
        assert options.id == pod
        assert options.listen == ("0.0.0.0", ports_of(container)["http"])
        assert options.admin == ("0.0.0.0", ports_of(container)["admin"])
        assert loaded.settings.server.port + ADMIN_ABOVE == ports_of(container)["admin"]


def ports_of(container: Object) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container["ports"]}


def test_each_probe_asks_a_path_and_a_port_that_there_are(objects: list[Object]) -> None:
    for container in ours(objects).values():
        asked = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
        assert {get["port"] for get in asked.values()} == {"admin"}
        assert {get["path"] for get in asked.values()} <= admin_paths()
        assert asked["liveness"]["path"] == asked["startup"]["path"] == "/livez"  # Redis away restarts nothing
        assert asked["readiness"]["path"] == "/readyz"


def test_a_pod_has_more_time_than_it_takes_to_leave(objects: list[Object]) -> None:
    for role, container in ours(objects).items():
        command, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
        assert command == "sleep"
        grace_s = pods(objects)[f"agent-server-{role}"]["terminationGracePeriodSeconds"]
        assert float(seconds) + DRAIN_S + SETTLE_S + serving.STOP_S < grace_s


def test_services_and_policies_open_ports_that_processes_have(objects: list[Object]) -> None:
    served = {
        port["name"]: port["containerPort"]
        for pod in pods(objects).values()
        for container in pod["containers"]
        for port in container["ports"]
    }
    for served_by in named(objects, "Service").values():
        assert all(served[port["targetPort"]] == port["port"] for port in served_by["spec"]["ports"])
    opened = {rule["port"] for rule in rules(objects)}
    assert opened == {*served.values(), REDIS_PORT, DNS_PORT}


def rules(objects: list[Object]) -> Iterator[dict[str, Any]]:
    """The ports that policies open."""
    for policy in named(objects, "NetworkPolicy").values():
        for direction in ("ingress", "egress"):
            for rule in policy["spec"].get(direction, ()):
                yield from rule["ports"]


# ---- what belongs together does


def test_selectors_find_pods(objects: list[Object]) -> None:
    labels = {name: workload["spec"]["template"]["metadata"]["labels"] for name, workload in workloads(objects).items()}

    def found_by(selector: dict[str, str]) -> set[str]:
        return {name for name, given in labels.items() if selector.items() <= given.items()}

    for name, workload in workloads(objects).items():
        assert found_by(workload["spec"]["selector"]["matchLabels"]) == {name}
        for spread in workload["spec"]["template"]["spec"].get("topologySpreadConstraints", ()):
            assert found_by(spread["labelSelector"]["matchLabels"]) == {name}
    for kind, path in (("Service", ()), ("PodDisruptionBudget", ("matchLabels",))):
        for name, found in named(objects, kind).items():
            selector = functools.reduce(lambda inner, key: inner[key], path, found["spec"]["selector"])
            assert found_by(selector) == {name}
    for policy in named(objects, "NetworkPolicy").values():
        assert found_by(policy["spec"]["podSelector"].get("matchLabels", {}))
    for autoscaler in named(objects, "HorizontalPodAutoscaler").values():
        assert autoscaler["spec"]["scaleTargetRef"]["name"] in named(objects, "Deployment")


def test_the_ingress_goes_by_path(objects: list[Object]) -> None:
    [ingress] = named(objects, "Ingress").values()
    [rule] = ingress["spec"]["rules"]
    paths = {path["path"]: path["backend"]["service"] for path in rule["http"]["paths"]}
    assert {path: backend["name"] for path, backend in paths.items()} == {
        "/ws/": "agent-server-node",
        "/api/agents/register": "agent-server-node",
        "/": "agent-server-router",
    }
    services = named(objects, "Service")
    for backend in paths.values():
        assert backend["port"]["name"] in {port["name"] for port in services[backend["name"]]["spec"]["ports"]}
    assert all(host == rule["host"] for tls in ingress["spec"].get("tls", ()) for host in tls["hosts"])


def test_metrics_are_asked_where_they_are(render: Callable[[str], list[Object]]) -> None:
    objects = render("ha")
    [monitor] = named(objects, "ServiceMonitor").values()
    [endpoint] = monitor["spec"]["endpoints"]
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    services = [found for found in named(objects, "Service").values() if wanted <= found["metadata"]["labels"].items()]
    assert {found["metadata"]["name"] for found in services} == {"agent-server-node", "agent-server-router"}
    assert all(endpoint["port"] in {port["name"] for port in found["spec"]["ports"]} for found in services)
    assert endpoint["path"] in admin_paths()


# ---- policy


def test_pods_have_no_rights(objects: list[Object]) -> None:
    [namespace] = named(objects, "Namespace").values()
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for pod in pods(objects).values():
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def test_nothing_is_allowed_that_is_not_named(objects: list[Object]) -> None:
    denied = named(objects, "NetworkPolicy")["default-deny"]["spec"]
    assert denied == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name, policy in named(objects, "NetworkPolicy").items():
        for direction, peers in (("ingress", "from"), ("egress", "to")):
            for rule in policy["spec"].get(direction, ()):
                assert rule[peers], name
                assert rule["ports"], name


def test_an_update_takes_nothing_away_before_the_new_one_serves(objects: list[Object]) -> None:
    for deployment in named(objects, "Deployment").values():
        assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
        assert {spread["topologyKey"] for spread in deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]}
    assert set(named(objects, "PodDisruptionBudget")) == set(named(objects, "Deployment"))


@pytest.mark.parametrize("overlay", ["single", "ha"])
def test_a_process_has_one_cpu_as_it_has_one_loop(render: Callable[[str], list[Object]], overlay: str) -> None:
    for container in ours(render(overlay)).values():
        resources = container["resources"]
        assert resources["requests"] == resources["limits"]
        assert resources["limits"]["cpu"] == "1"


def test_the_autoscaler_alone_says_how_many_and_goes_slowly(render: Callable[[str], list[Object]]) -> None:
    objects = render("ha")
    scaled = named(objects, "HorizontalPodAutoscaler")
    assert {name: found["spec"]["minReplicas"] for name, found in scaled.items()} == {
        "agent-server-node": 3,
        "agent-server-router": 2,
    }
    for name, found in scaled.items():
        assert "replicas" not in named(objects, "Deployment")[name]["spec"]
        down = found["spec"]["behavior"]["scaleDown"]
        assert down["stabilizationWindowSeconds"] >= 1800
        assert down["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": 600}]
    [first, *_] = scaled["agent-server-node"]["spec"]["metrics"]
    assert first["type"] == "Pods"  # connections; the CPU comes second


@pytest.mark.parametrize("overlay", ["single", "ha"])
def test_images_are_pinned(render: Callable[[str], list[Object]], overlay: str) -> None:
    images = {c["image"] for pod in pods(render(overlay)).values() for c in pod["containers"]}
    version = cli.version_text().split()[-1]
    assert f"agent-server:{version}" in images
    assert all(re.fullmatch(r"[\w.-]+:\d+\.\d+\.\d+(-[a-z]+)?", image) for image in images)


def test_an_image_is_named_in_one_place() -> None:
    written = [path for path in KUBERNETES.rglob("*.yaml") if path.name != "kustomization.yaml"]
    assert not [path for path in written if re.search(r"image: \S+[:@]", path.read_text())]
    pins = [
        image["name"]
        for path in KUBERNETES.rglob("kustomization.yaml")
        if path.parent.name != "dev"
        for image in yaml.safe_load(path.read_text()).get("images", ())
    ]
    assert sorted(pins) == ["agent-server", "redis"]
