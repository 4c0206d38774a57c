"""Create a RayJob from a suspended one that serves as its template, wait for its end, and report it.

    python start_rayjob.py --template palimpsest-nightly --namespace palimpsest --name palimpsest-nightly-29384820 --owner-uid UID

Runs in a pod of the CronJob in nightly.yaml, with the standard library only. The RayJob gets the name of the Job that the pod
belongs to, so a pod that is started again finds the RayJob of its predecessor instead of making a second one; and the Job as its
owner, so that it goes when the Job goes. Needs the verbs get and create on rayjobs.

A RayJob that failed is tried once more, as NAME-2, unless its command ended by itself: that failure (a setting, a source, too
much quarantined) would come again. Lost machines, a killed driver and a cluster that did not start are worth another try.

Exit codes: 0 the RayJob succeeded, 1 it failed or is gone, 2 usage or permission, 4 no answer from the API server (try again).
"""

from __future__ import annotations

import argparse
import json
import re
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
FAILED, USAGE, UNREACHABLE = 1, 2, 4
NAME_LENGTH = 47  # what KubeRay accepts as the name of a RayJob


class Refused(Exception):
    """The API server answered with an error that waiting does not fix."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Unreachable(Exception):
    """No useful answer for longer than the patience given."""


class Api:
    """The RayJobs of one namespace.

    Args:
        account: folder with `token` and `ca.crt`; the token is read anew for every request, because it is replaced every hour.
        patience: seconds for which failing requests are repeated.
    """

    def __init__(self, server: str, namespace: str, account: Path, patience: float, pause: float) -> None:
        self.url = f"{server}/apis/ray.io/v1/namespaces/{namespace}/rayjobs"
        self.account, self.patience, self.pause = account, patience, pause
        self.tls = ssl.create_default_context(cafile=str(account / "ca.crt")) if server.startswith("https") else None

    def get(self, name: str) -> dict[str, Any]:
        return self._request("GET", f"{self.url}/{name}")

    def create(self, body: dict[str, Any]) -> dict[str, Any]:
        return self._request("POST", self.url, body)

    def _request(self, method: str, url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        deadline = time.monotonic() + self.patience
        while True:
            try:
                return self._once(method, url, body)
            except (Refused, OSError, ValueError) as error:  # URLError and time-outs are OSErrors, half an answer a ValueError
                if isinstance(error, Refused) and error.status not in (401, 408, 429) and error.status < 500:
                    raise
                if time.monotonic() > deadline:
                    raise Unreachable(f"{method} {url}: {error}") from error
                say(f"{method} {url}: {error}; trying again")
            time.sleep(self.pause)

    def _once(self, method: str, url: str, body: dict[str, Any] | None) -> dict[str, Any]:
        headers = {"Accept": "application/json", "Authorization": f"Bearer {(self.account / 'token').read_text().strip()}"}
        data = None
        if body is not None:
            data, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        request = urllib.request.Request(url, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30, context=self.tls) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            try:
                text = json.loads(text)["message"]
            except (ValueError, KeyError, TypeError):
                text = text[:300]
            raise Refused(error.code, text) from error


def copy_of(template: dict[str, Any], name: str, owner: str, owner_uid: str) -> dict[str, Any]:
    """A RayJob that runs, from one that is suspended."""
    return {
        "apiVersion": template["apiVersion"],
        "kind": template["kind"],
        "metadata": {
            "name": name,
            "labels": {**template["metadata"].get("labels", {}), "app.kubernetes.io/instance": template["metadata"]["name"]},
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": owner, "uid": owner_uid, "controller": True}],
        },
        "spec": {key: value for key, value in template["spec"].items() if key != "suspend"},
    }


def start(api: Api, template: str, name: str, owner: str, owner_uid: str) -> dict[str, Any]:
    """The RayJob `name`: created now, or by an earlier pod of the same Job."""
    try:
        made = api.create(copy_of(api.get(template), name, owner, owner_uid))
        say(f"created RayJob {name} from {template}")
    except Refused as error:
        if error.status != 409:
            raise
        made = api.get(name)
        if owner_uid not in [owner.get("uid") for owner in made["metadata"].get("ownerReferences", [])]:
            raise Refused(409, f"RayJob {name} is there already and belongs to somebody else") from error
        say(f"found RayJob {name} of an earlier try")
    return made


def wait(api: Api, job: dict[str, Any], pause: float) -> dict[str, Any]:
    """The status of the RayJob when it has ended. Every change of it is printed."""
    name, shown = job["metadata"]["name"], ""
    while True:
        status = job.get("status") or {}
        deployment, entry = status.get("jobDeploymentStatus", ""), status.get("jobStatus", "")
        parts = (deployment or "New", entry, status.get("rayClusterName"), status.get("reason"), status.get("message"))
        line = " | ".join(part for part in parts if part)
        if line != shown:
            say(shown := line)
        if deployment in ("Complete", "Failed", "ValidationFailed"):
            return status
        time.sleep(pause)
        job = api.get(name)


def succeeded(status: dict[str, Any]) -> bool:
    return status.get("jobDeploymentStatus") == "Complete" and status.get("jobStatus") == "SUCCEEDED"


def may_pass(status: dict[str, Any]) -> bool:
    """Whether another try can end otherwise. The command's own exit codes 1 and 2 are final; Ray names them in its message."""
    if status.get("jobDeploymentStatus") != "Failed" or status.get("reason") in ("DeadlineExceeded", "ValidationFailed"):
        return False
    return not re.search(r"exit code [12]\b", status.get("message", ""))


def run(api: Api, template: str, name: str, owner_uid: str, tries: int, pause: float) -> bool:
    """Whether one of at most `tries` RayJobs succeeded."""
    for number in range(1, tries + 1):
        status = wait(api, start(api, template, name if number == 1 else f"{name}-{number}", name, owner_uid), pause)
        if succeeded(status) or not may_pass(status):
            return succeeded(status)
        say(f"try {number} of {tries} failed in a way that may pass")
    return False


def say(line: str) -> None:
    print(time.strftime("%H:%M:%S "), line, sep="", flush=True)


def fail(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--template", required=True, help="the suspended RayJob to copy")
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--name", required=True, help="of the RayJob to create, and of the Job that owns it")
    parser.add_argument("--owner-uid", required=True, help="uid of that Job")
    parser.add_argument("--server", default="https://kubernetes.default.svc", help="URL of the API server")
    parser.add_argument("--account", type=Path, default=ACCOUNT, help="folder with token and ca.crt")
    parser.add_argument("--tries", type=int, default=2, help="RayJobs at most, the first included")
    parser.add_argument("--pause", type=float, default=15.0, help="seconds between two looks")
    parser.add_argument("--patience", type=float, default=600.0, help="seconds without an answer before giving up")
    chosen = parser.parse_args(arguments)
    if len(chosen.name) + len("-2") > NAME_LENGTH:
        fail(f"--name {chosen.name!r}: KubeRay accepts at most {NAME_LENGTH} characters, with -2 for a second try; shorten it")
        return USAGE
    try:
        api = Api(chosen.server, chosen.namespace, chosen.account, chosen.patience, chosen.pause)
        done = run(api, chosen.template, chosen.name, chosen.owner_uid, chosen.tries, chosen.pause)
    except Unreachable as error:
        fail(f"the API server cannot be reached: {error}")
        return UNREACHABLE
    except Refused as error:
        fail(f"the API server refused: {error}")
        return FAILED if error.status == 404 else USAGE
    except OSError as error:
        fail(f"no service account at {chosen.account}: {error}")
        return USAGE
    return 0 if done else FAILED


if __name__ == "__main__":
    sys.exit(main())
