"""What the tests of infra/ validate with: one function for each kind of file, from a path to the list of its errors.

A validator that is not installed skips the test and says how to get it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
INFRA = ROOT / "infra"
KUBERNETES = "1.33"
RAY_KINDS = ("RayCluster", "RayJob", "RayCronJob")
OPERATOR_KINDS = ("PodMonitor", "PrometheusRule")


def program(name: str, how: str) -> str:
    """Path of a program; skips the test where it is missing."""
    found = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: {how}")
    return found


def output_of(command: list[str], **options: Any) -> tuple[int, str]:
    """Exit code, and what it printed to both streams."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600, **options)
    return done.returncode, done.stdout


def lint(name: str, how: str, *arguments: str | Path) -> list[str]:
    """The complaints of a linter that exits with 0 where it has none."""
    code, printed = output_of([program(name, how), *map(str, arguments)])
    return printed.splitlines() if code else []


def documents(path: Path) -> list[dict[str, Any]]:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed: pip install pyyaml")
    return [document for document in yaml.safe_load_all(path.read_text("utf-8")) if document]


def schema_errors(document: Any, schema: str | Path) -> list[str]:
    """Errors of a document against a JSON schema: a name in infra/schemas, or a path."""
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed: pip install jsonschema")
    path = schema if isinstance(schema, Path) else INFRA / "schemas" / f"{schema}.json"
    loaded = json.loads(path.read_text("utf-8"))
    if kind := isinstance(document, dict) and document.get("kind"):
        if kind not in loaded.get("$defs", {}):
            return [f"kind {kind!r} is not in {path.name}"]
        loaded = {"$defs": loaded["$defs"], "$ref": f"#/$defs/{kind}"}  # one branch: its errors say more than those of oneOf
    validator = jsonschema.validators.validator_for(loaded)(loaded)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}" for error in validator.iter_errors(document)]


def pod_templates(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod template of a manifest, and its position."""
    spec = document.get("spec", {})
    match document["kind"]:
        case "CronJob":
            yield "jobTemplate", spec["jobTemplate"]["spec"]["template"]
        case "RayCronJob":
            yield from pod_templates({"kind": "RayJob", "spec": spec["jobTemplate"]})
        case "RayJob":
            if "submitterPodTemplate" in spec:
                yield "submitterPodTemplate", spec["submitterPodTemplate"]
            yield from pod_templates({"kind": "RayCluster", "spec": spec.get("rayClusterSpec", {})})
        case "RayCluster":
            if "headGroupSpec" in spec:
                yield "headGroupSpec", spec["headGroupSpec"]["template"]
            yield from ((f"group {group['groupName']}", group["template"]) for group in spec.get("workerGroupSpecs", []))


def kubernetes_errors(document: dict[str, Any]) -> list[str]:
    """Errors of any manifest: Kubernetes' own kinds strictly by its schema, others by ours and their pods strictly as pods."""
    if document["kind"] in OPERATOR_KINDS:
        return schema_errors(document, "prometheus-operator")
    if document["kind"] not in RAY_KINDS:
        return _strictly(document)
    errors = schema_errors(document, "kuberay")
    if errors:
        return errors
    for where, template in pod_templates(document):
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "x", **template.get("metadata", {})},
            "spec": template["spec"],
        }
        errors += [f"{where}: {error}" for error in _strictly(pod)]
    return errors


def _strictly(document: dict[str, Any]) -> list[str]:
    validator = pytest.importorskip("kubernetes_validate", reason="not installed: pip install kubernetes-validate")
    try:
        validator.validate(document, KUBERNETES, strict=True)
    except validator.ValidationError as error:
        return [f"{'.'.join(map(str, error.path))}: {error.message[:200]}"]
    except validator.SchemaNotFoundError as error:
        return [f"there is no {error.kind} {error.api_version} in Kubernetes {KUBERNETES}"]
    return []


def restricted_errors(template: dict[str, Any]) -> list[str]:
    """What the pod security standard `restricted`, which the namespace enforces, would refuse; and a writable root."""
    spec, errors = template["spec"], []
    pod = spec.get("securityContext", {})
    if pod.get("runAsNonRoot") is not True or pod.get("runAsUser") == 0:
        errors.append("runs as root")
    if pod.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        errors.append("has no seccomp profile")
    for container in [*spec["containers"], *spec.get("initContainers", [])]:
        own = container.get("securityContext", {})
        if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
            errors.append(f"{container['name']} may gain privileges")
        if own.get("capabilities") != {"drop": ["ALL"]}:
            errors.append(f"{container['name']} keeps capabilities")
        if own.get("readOnlyRootFilesystem") is not True:
            errors.append(f"{container['name']} can write to its image")
    errors += [f"mounts the host's {volume['hostPath']}" for volume in spec.get("volumes", []) if "hostPath" in volume]
    return errors


def ray_versions() -> dict[str, str]:
    """Every place of infra/ that says which Ray it is, and what it says."""
    found = {}
    for variant in ("cpu", "gpu"):
        found[f"requirements-{variant}.lock"] = locked(variant)["ray"]
        text = (INFRA / "images" / f"Dockerfile.{variant}").read_text("utf-8")
        found[f"Dockerfile.{variant}"] = re.findall(r"^ARG RAY_VERSION=(\S+)$", text, re.M)[0]
    for path in sorted([*(INFRA / "kuberay").glob("*.yaml"), *(INFRA / "cluster-launcher").glob("*.yaml")]):
        found |= ray_versions_of(path)
    return found


def ray_versions_of(path: Path) -> dict[str, str]:
    text, found = path.read_text("utf-8"), {}
    for number, line in enumerate(text.splitlines(), 1):
        for version in re.findall(r"palimpsest:[\w.]+-ray([\w.]+)-[cg]pu|rayVersion: \"?([\w.]+)", line):
            found[f"{path.name}:{number}"] = version[0] or version[1]
    return found


def locked(variant: str, text: str | None = None) -> dict[str, str]:
    """Name -> version of a lock file."""
    text = text or (INFRA / "images" / f"requirements-{variant}.lock").read_text("utf-8")
    return dict(re.findall(r"^([a-z0-9][\w.-]*)==([^\s;\\]+)", text, re.M))


def edited(path: Path, folder: Path, old: str, new: str) -> Path:
    """A copy of a file in which `old` reads `new`: the broken copy that its validator has to refuse."""
    text = path.read_text("utf-8")
    assert old in text, f"{path.name} no longer has {old!r}: fix the test"
    copy = folder / path.name
    copy.write_text(text.replace(old, new, 1), "utf-8")
    return copy


def clean_environment(**more: str) -> dict[str, str]:
    """The environment without settings of AWS or Terraform."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "TF_"))} | more
