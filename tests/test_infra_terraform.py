"""The Terraform modules: parsed, validated, planned, and applied to servers; the policies allow what a run does and no more."""

from __future__ import annotations

import fnmatch
import json
import shutil
from glob import glob
from pathlib import Path
from typing import Any

import pytest

from tests.infra_validators import INFRA, clean_environment, edited, output_of, program
from tests.s3_servers import ACCESS_KEY, SECRET_KEY, S3Server, moto, seaweedfs

TERRAFORM = INFRA / "terraform"
FILES = sorted(TERRAFORM.rglob("*.tf"))
MIRRORS = ("/opt/*", "/usr/share/terraform/plugins", "/usr/local/share/terraform/plugins", "~/.terraform.d/plugins")
CORPUS = "arn:aws:s3:::example-corpus"


class Terraform:
    """Terraform in a copy of the modules, with providers from a folder of this machine and the keys of the test servers."""

    def __init__(self, folder: Path, mirror: Path) -> None:
        self.root = folder / "terraform"
        shutil.copytree(TERRAFORM, self.root)
        settings = folder / "terraform.rc"
        settings.write_text(f'provider_installation {{\n  filesystem_mirror {{\n    path = "{mirror}"\n  }}\n}}\n')
        self.program = program("terraform", "https://developer.hashicorp.com/terraform/install")
        self.environment = clean_environment(
            TF_CLI_CONFIG_FILE=str(settings), TF_IN_AUTOMATION="1", CHECKPOINT_DISABLE="1",
            AWS_ACCESS_KEY_ID=ACCESS_KEY, AWS_SECRET_ACCESS_KEY=SECRET_KEY, AWS_EC2_METADATA_DISABLED="true",
        )  # fmt: skip

    def __call__(self, example: str, *arguments: str) -> tuple[int, str]:
        return output_of([self.program, *arguments], cwd=self.root / "examples" / example, env=self.environment)

    def checked(self, example: str, *arguments: str) -> str:
        code, printed = self(example, *arguments)
        assert code == 0, printed
        return printed


@pytest.fixture(scope="module")
def terraform(tmp_path_factory: pytest.TempPathFactory) -> Terraform:
    program("terraform", "https://developer.hashicorp.com/terraform/install")
    places = [Path(path) for mirror in MIRRORS for path in sorted(glob(str(Path(mirror).expanduser())))]
    found = [path for path in places if list(path.glob("*/hashicorp/aws"))]
    if not found:
        pytest.skip(
            f"no provider hashicorp/aws on this machine: looked in {', '.join(MIRRORS)} (terraform providers mirror FOLDER)"
        )
    made = Terraform(tmp_path_factory.mktemp("terraform"), found[0])
    for example in ("aws", "s3-compatible"):
        made.checked(example, "init", "-input=false", "-no-color")
    return made


def aws_on(terraform: Terraform, endpoint: str) -> None:
    """Point the AWS example at a server of ours, with the values of its own example file."""
    folder = terraform.root / "examples" / "aws"
    shutil.copy(folder / "terraform.tfvars.example", folder / "terraform.tfvars")
    skips = "".join(f"  {name} = true\n" for name in SKIPS)
    endpoints = (
        f'  endpoints {{\n    s3 = "{endpoint}"\n    iam = "{endpoint}"\n    sts = "{endpoint}"\n  }}\n' if endpoint else ""
    )
    (folder / "override.tf").write_text(f'provider "aws" {{\n{skips}{endpoints}}}\n')


SKIPS = ("skip_credentials_validation", "skip_requesting_account_id", "skip_metadata_api_check", "s3_use_path_style")


@pytest.fixture(scope="module")
def planned(terraform: Terraform) -> dict[str, Any]:
    aws_on(terraform, "")
    terraform.checked("aws", "plan", "-input=false", "-no-color", "-out=plan")
    return json.loads(terraform.checked("aws", "show", "-json", "plan"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(TERRAFORM)))
def test_the_file_parses(path: Path) -> None:
    hcl2 = pytest.importorskip("hcl2", reason="python-hcl2 is not installed: pip install python-hcl2")
    assert hcl2.loads(path.read_text("utf-8"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(TERRAFORM)))
def test_a_broken_file_does_not_parse(path: Path, tmp_path: Path) -> None:
    hcl2 = pytest.importorskip("hcl2", reason="python-hcl2 is not installed: pip install python-hcl2")
    text = path.read_text("utf-8")
    for broken in (text.replace("{", "[", 1), text.replace("=", ":=", 1)):
        assert broken != text
        with pytest.raises(Exception, match=r"(?i)unexpected|expected"):
            hcl2.loads(broken)


def test_every_variable_is_described_and_those_of_modules_are_checked() -> None:
    hcl2 = pytest.importorskip("hcl2", reason="python-hcl2 is not installed: pip install python-hcl2")
    free = {"noncurrent", "tags", "aws_features", "name", "kms_key_arn"}
    for path in TERRAFORM.glob("modules/*/variables.tf"):
        for block in hcl2.loads(path.read_text("utf-8"))["variable"]:
            for name, variable in block.items():
                assert variable["description"], name
                assert "validation" in variable or name.strip('"') in free, name


@pytest.mark.slow
@pytest.mark.parametrize("example", ["aws", "s3-compatible"])
def test_terraform_validates(terraform: Terraform, example: str, tmp_path: Path) -> None:
    terraform.checked(example, "fmt", "-check", "-recursive", str(terraform.root))
    terraform.checked(example, "validate", "-no-color")
    if example == "aws":
        original = terraform.root / "modules" / "corpus" / "outputs.tf"
        broken = edited(original, tmp_path, "aws_s3_bucket.corpus.bucket", "aws_s3_bucket.corpora.bucket")
        kept = original.read_text("utf-8")
        try:
            shutil.copy(broken, original)
            code, printed = terraform(example, "validate", "-no-color")
        finally:
            original.write_text(kept)
        assert code and "aws_s3_bucket" in printed


@pytest.mark.slow
def test_bad_values_are_refused_with_their_reasons(terraform: Terraform, planned: dict[str, Any]) -> None:
    bad = {
        "aws": {
            'corpus={bucket="example-corpus",prefix="corpora"}': "corpus.prefix ends with /",
            'sources=[{bucket="b",prefix="texts"}]': "does not give texts-secret/ away",
            "oidc_provider_arn=arn:aws:iam::1:role/x": "the ARN of an IAM OIDC provider",
        },
        "s3-compatible": {"bucket=Example_Corpus": "lower-case letters", "endpoint=ftp://x": "an http:// or https:// URL"},
    }
    for example, reasons in bad.items():
        settings = [f"-var={setting}" for setting in reasons]
        code, printed = terraform(example, "plan", "-input=false", "-no-color", "-refresh=false", *settings)
        text = " ".join(printed.replace("│", " ").split())
        assert code and [reason for reason in reasons.values() if reason not in text] == [], text


def allowed(policy: dict[str, Any], action: str, resource: str, prefix: str | None = None) -> bool:
    """Whether a policy of Allow statements allows a request; `prefix` is what a listing asks for."""
    for statement in policy["Statement"]:
        actions, resources = (
            [value] if isinstance(value, str) else value for value in (statement["Action"], statement["Resource"])
        )
        if action not in actions or not any(fnmatch.fnmatchcase(resource, pattern) for pattern in resources):
            continue
        for test, wanted in statement.get("Condition", {}).items():
            values = wanted["s3:prefix"]
            if prefix is None and not test.endswith("IfExists"):
                break
            if prefix is not None and not any(fnmatch.fnmatchcase(prefix, value) for value in values):
                break
        else:
            return True
    return False


@pytest.mark.slow
def test_a_run_may_do_what_it_does_and_nothing_else(planned: dict[str, Any]) -> None:
    policy = json.loads(planned["planned_values"]["outputs"]["run_policy_json"]["value"])
    source = "arn:aws:s3:::example-source"
    assert allowed(policy, "s3:ListBucket", source, "texts/") and allowed(policy, "s3:GetObject", f"{source}/texts/a.jsonl")
    assert not allowed(policy, "s3:ListBucket", source, "") and not allowed(policy, "s3:GetObject", f"{source}/texts-secret/a")
    assert not allowed(policy, "s3:PutObject", f"{source}/texts/a.jsonl") and not allowed(
        policy, "s3:DeleteObject", f"{source}/texts/a"
    )
    for action in ("GetObject", "PutObject", "DeleteObject", "AbortMultipartUpload", "ListMultipartUploadParts"):
        assert allowed(policy, f"s3:{action}", f"{CORPUS}/corpora/texts/_units/u.json"), action
        assert not allowed(policy, f"s3:{action}", f"{CORPUS}/other/x"), action
    assert allowed(policy, "s3:ListBucket", CORPUS, "corpora/texts/_units/") and not allowed(
        policy, "s3:ListBucket", CORPUS, "other/"
    )
    assert allowed(policy, "s3:ListBucket", CORPUS), "without it a look at an absent key answers 403 instead of 404"
    assert allowed(policy, "s3:ListBucketMultipartUploads", CORPUS)
    actions = [action for statement in policy["Statement"] for action in [statement["Action"]] if "*" in str(action)]
    assert actions == []


@pytest.mark.slow
def test_the_bucket_is_private_encrypted_and_creates_once(planned: dict[str, Any]) -> None:
    (corpus,) = [
        module for module in planned["planned_values"]["root_module"]["child_modules"] if module["address"] == "module.corpus"
    ]
    made = {resource["type"]: resource["values"] for resource in corpus["resources"]}
    blocked = made["aws_s3_bucket_public_access_block"]
    assert all(
        blocked[name] for name in ("block_public_acls", "block_public_policy", "ignore_public_acls", "restrict_public_buckets")
    )
    assert made["aws_s3_bucket_versioning"]["versioning_configuration"][0]["status"] == "Enabled"
    (encryption,) = made["aws_s3_bucket_server_side_encryption_configuration"]["rule"]
    assert encryption["apply_server_side_encryption_by_default"][0]["sse_algorithm"] == "AES256"
    statements = {statement["Sid"]: statement for statement in json.loads(made["aws_s3_bucket_policy"]["policy"])["Statement"]}
    once = statements["CreateOnce"]
    assert once["Effect"] == "Deny" and once["Condition"]["Null"] == {"s3:if-none-match": "true"}
    for key, denied in (
        ("_snapshots/00000007.json", True),
        ("_units/u.json", True),
        ("corpus.json", True),
        ("data/tiny/x.parquet", False),
    ):
        assert any(fnmatch.fnmatchcase(f"{CORPUS}/corpora/texts/{key}", pattern) for pattern in once["Resource"]) == denied, key
    assert statements["TlsOnly"]["Effect"] == "Deny"


@pytest.mark.slow
def test_everything_applies(terraform: Terraform) -> None:
    with moto() as server:
        aws_on(terraform, server.endpoint)
        terraform.checked("aws", "apply", "-input=false", "-no-color", "-auto-approve", "-state=moto.tfstate")
        outputs = json.loads(terraform.checked("aws", "output", "-json", "-state=moto.tfstate"))
        assert outputs["run_role_arn"]["value"].endswith(":role/palimpsest-run")
        expect_bucket(server, outputs["corpus_bucket"]["value"])  # no writes: moto reads the bucket policy without its conditions
        again = terraform.checked("aws", "plan", "-input=false", "-no-color", "-state=moto.tfstate")
        assert "No changes" in again


@pytest.mark.slow
def test_the_bucket_applies_to_a_store_that_speaks_s3(terraform: Terraform) -> None:
    with seaweedfs() as server:
        values = [f"-var=endpoint={server.endpoint}", "-var=bucket=palimpsest-corpora"]
        terraform.checked("s3-compatible", "apply", "-input=false", "-no-color", "-auto-approve", *values)
        expect_bucket(server, "palimpsest-corpora")
        client, key = server.client(), {"Bucket": "palimpsest-corpora", "Key": "corpora/x/corpus.json"}
        client.put_object(**key, Body=b"1", IfNoneMatch="*")
        with pytest.raises(client.exceptions.ClientError, match="PreconditionFailed|412"):
            client.put_object(**key, Body=b"2", IfNoneMatch="*")


def expect_bucket(server: S3Server, bucket: str) -> None:
    client = server.client()
    assert client.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    rules = {rule["ID"]: rule for rule in client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]}
    assert rules["incomplete-uploads"]["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] == 7
