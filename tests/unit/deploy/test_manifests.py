"""Images, compose and Kubernetes: the linters are content, and what they say to the daemon is what the daemon knows.

Seen to fail for: a misspelt setting in compose and in the settings of the cluster, a port published beyond loopback,
a pod that runs as root, an image that does, a pod that gets variables of services, a misspelt field in
a pod's template, a lock whose hashes differ from the project's, a module that the builder does not get, a variable of
Ray that only the daemon sets, one with another value, a worker's node without them.
"""

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from actors.handles import WAKES
from config.load import FIELDS, load
from config.settings import SECRETS
from daemon import RAY_VARIABLES
from tests.support.patience import HUNG_SECONDS

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
OVERLAYS = ("development", "staging", "production")
KUBERNETES = ("1.30", "1.34")  # the oldest and the newest that we say it is for
# Of spec in ray.io/v1, as the operator's reference has it.
RAY_CLUSTER = {"rayVersion", "authOptions", "gcsFaultToleranceOptions", "headGroupSpec", "workerGroupSpecs"}
RAY_GROUP = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}


def run(*command: str) -> str:
    """What the linter says; it says nothing when it is content."""
    program = Path(sys.executable).with_name(command[0])
    done = subprocess.run(
        [program, *command[1:]], cwd=ROOT, capture_output=True, text=True, timeout=HUNG_SECONDS, check=False
    )
    return done.stdout + done.stderr


def has_kustomize() -> bool:
    """kubectl has it built in; older ones have one that does not know our overlays' words."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        return False
    done = subprocess.run(
        [kubectl, "version", "--client"], capture_output=True, text=True, timeout=HUNG_SECONDS, check=False
    )
    return "Kustomize Version: v5" in done.stdout


def documents(text: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(text) if one]


def base() -> list[dict[str, Any]]:
    files = sorted((DEPLOY / "kubernetes" / "base").glob("*.yaml"))
    return [one for file in files for one in documents(file.read_text("utf-8")) if one["kind"] != "Kustomization"]


def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8")))


def pods(of: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The templates in the RayCluster, as pods."""
    for cluster in of:
        if cluster["kind"] != "RayCluster":
            continue
        groups = [("head", cluster["spec"]["headGroupSpec"])]
        groups += [(group["groupName"], group) for group in cluster["spec"]["workerGroupSpecs"]]
        for name, group in groups:
            metadata = {"name": name, **group["template"]["metadata"]}
            yield (
                name,
                {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": group["template"]["spec"]},
            )


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]


def settings_named(names: list[str]) -> None:
    for name in names:
        setting = name.removeprefix("WATTBOOK_").lower()
        assert setting in FIELDS or setting.removesuffix("_file") in SECRETS, name


def test_hadolint_is_content() -> None:
    assert run("hadolint", "deploy/Dockerfile") == ""


def test_yamllint_is_content() -> None:
    assert (
        run("yamllint", "--strict", "deploy", ".yamllint.yaml", *([".github"] if (ROOT / ".github").exists() else []))
        == ""
    )


def test_the_image_does_not_run_as_root() -> None:
    users = re.findall(r"^USER (.+)$", (DEPLOY / "Dockerfile").read_text("utf-8"), re.MULTILINE)

    assert users == ["10001:10001"]


def test_what_the_builder_gets_is_there_and_holds_no_secrets() -> None:
    lines = (DEPLOY / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    given = [line[1:] for line in lines if line.startswith("!")]

    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]["targets"]["wheel"]

    assert "*" in lines
    assert set(wheel["only-include"]) <= set(given)
    assert [name for name in given if not (ROOT / name).exists()] == []
    assert not {"var", "deploy", "deploy/secrets", ".git", "tests"} & set(given)


def locked(path: Path) -> dict[str, set[str]]:
    """Each pinned package with its hashes."""
    blocks = re.findall(
        r"^([\w.-]+==[^\s;]+)[^\n]*((?:\n    --hash=\S+(?: \\)?)+)", path.read_text("utf-8"), re.MULTILINE
    )
    found: dict[str, set[str]] = {}
    for name, hashes in blocks:
        found.setdefault(name, set()).update(re.findall(r"sha256:[0-9a-f]{64}", hashes))
    return found


def test_the_image_has_the_packages_of_the_project() -> None:
    ours, image = locked(ROOT / "requirements.lock"), locked(DEPLOY / "requirements.lock")

    assert len(image) > 50
    assert {name: hashes for name, hashes in image.items() if ours.get(name) != hashes} == {}
    assert not [name for name in image if name.startswith(("pytest==", "mypy==", "hypothesis=="))]


def test_compose_publishes_on_loopback_only() -> None:
    published = [port for service in compose()["services"].values() for port in service.get("ports", ())]

    assert published
    assert [port for port in published if not port.startswith("127.0.0.1:")] == []


def test_compose_sets_what_the_daemon_knows() -> None:
    settings_named([name for name in compose()["services"]["exchange"]["environment"] if name.startswith("WATTBOOK_")])


def test_every_secret_of_compose_is_made_and_used() -> None:
    described = compose()
    script = (DEPLOY / "secrets.sh").read_text("utf-8")
    used = {name for service in described["services"].values() for name in service.get("secrets", ())}

    assert used == set(described["secrets"])
    assert [name for name in used if f"make {name} " not in script] == []


def test_every_image_of_compose_is_pinned() -> None:
    for name, service in compose()["services"].items():
        tag = service["image"].partition(":")[2]
        assert tag, name
        assert tag != "latest", name


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("one", base(), ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")
def test_kubernetes_takes_it(one: dict[str, Any], version: str) -> None:
    if one["kind"] != "RayCluster":
        kubernetes_validate.validate(one, version, strict=True)
        return
    assert set(one["spec"]) == RAY_CLUSTER
    for group in (one["spec"]["headGroupSpec"], *one["spec"]["workerGroupSpecs"]):
        assert set(group) <= RAY_GROUP


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize(("name", "pod"), list(pods(base())), ids=lambda one: one if isinstance(one, str) else "")
def test_kubernetes_takes_the_pods_of_ray(name: str, pod: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(pod, version, strict=True)


@pytest.mark.parametrize(("name", "pod"), list(pods(base())), ids=lambda one: one if isinstance(one, str) else "")
def test_a_pod_has_no_rights_and_bounds(name: str, pod: dict[str, Any]) -> None:
    spec = pod["spec"]

    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False  # else WATTBOOK_METRICS_PORT is a service's address
    for container in containers(pod):
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True, container["name"]
        assert context["allowPrivilegeEscalation"] is False, container["name"]
        assert context["capabilities"] == {"drop": ["ALL"]}, container["name"]
        assert set(container["resources"]) == {"requests", "limits"}, container["name"]
    assert [c["name"] for c in spec["containers"] if "livenessProbe" not in c] == []


def test_no_manifest_holds_a_secret() -> None:
    assert [one for one in base() if one["kind"] == "Secret"] == []
    for _, pod in pods(base()):
        for container in containers(pod):
            for variable in container.get("env", ()):
                setting = variable["name"].removeprefix("WATTBOOK_").lower()
                assert setting not in SECRETS or "secretKeyRef" in variable["valueFrom"], variable["name"]


@pytest.mark.parametrize(("name", "pod"), list(pods(base())), ids=lambda one: one if isinstance(one, str) else "")
def test_a_node_of_the_cluster_has_the_variables_that_the_daemon_gives_its_own_ray(
    name: str, pod: dict[str, Any]
) -> None:
    (node,) = [one for one in containers(pod) if one["name"] in ("ray-head", "ray-worker")]
    prefixes = ("RAY_", "REPORTER_", "METRICS_", "SCAN_")

    given = {one["name"]: one["value"] for one in node["env"] if one["name"].startswith(prefixes)}

    assert given == {**RAY_VARIABLES, **WAKES}, name


def test_services_budgets_and_rules_select_pods() -> None:
    labels = [pod["metadata"]["labels"] for _, pod in pods(base())]
    selectors = []
    for one in base():
        match one["kind"]:
            case "Service":
                selectors.append(one["spec"]["selector"])
            case "PodDisruptionBudget":
                selectors.append(one["spec"]["selector"]["matchLabels"])
            case "NetworkPolicy":
                selectors.append(one["spec"]["podSelector"]["matchLabels"])

    assert len(selectors) == 6
    for selector in selectors:
        assert any(selector.items() <= label.items() for label in labels), selector


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_daemon_starts_with_what_an_overlay_sets(overlay: str, tmp_path: Path) -> None:
    if not has_kustomize():
        pytest.skip("no kubectl with kustomize 5 is installed, so overlays were not put together")
    done = subprocess.run(
        ["kubectl", "kustomize", str(DEPLOY / "kubernetes" / "overlays" / overlay)],
        capture_output=True,
        text=True,
        timeout=HUNG_SECONDS,
        check=True,
    )
    made = documents(done.stdout)
    data = next(one["data"] for one in made if one["kind"] == "ConfigMap")
    secret = tmp_path / "secret"
    secret.write_text("s" * 40)

    settings = load({**data, "WATTBOOK_CLUSTER_SECRET_FILE": str(secret)})

    cluster = next(one for one in made if one["kind"] == "RayCluster")
    workers = cluster["spec"]["workerGroupSpecs"][0]["replicas"]
    assert settings.gateways == workers  # a worker without a gateway is not ready
    assert settings.dataplane_host == "node"
    assert settings.faucet_enabled == (overlay == "development")
    for _, pod in pods(made):
        kubernetes_validate.validate(pod, KUBERNETES[0], strict=True)
        assert {container["image"] for container in containers(pod)} == {
            f"registry.example.org/wattbook:{'0.1.0-dev' if overlay == 'development' else '0.1.0'}"
        }


def test_the_daemon_has_a_file_for_every_secret_it_needs_in_a_cluster() -> None:
    head = dict(pods(base()))["head"]
    daemon = next(one for one in head["spec"]["containers"] if one["name"] == "wattbookd")
    given = [variable["name"] for variable in daemon["env"] if variable["name"].endswith("_FILE")]
    settings_named(given)
    readme = (DEPLOY / "kubernetes" / "README.md").read_text("utf-8")
    files = [Path(variable["value"]).name for variable in daemon["env"] if variable["name"].endswith("_FILE")]

    assert [name for name in files if f"--from-file={name}" not in readme] == []
