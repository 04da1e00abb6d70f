"""AWS's own tools on the infrastructure as code: linters, SAM's build, and the CDK app with cdk-nag and assertions.

They run in an environment of their own (`make .venv-infra`), from a lock of their own.
"""

import json
import os
import re
import shutil
import subprocess

import pytest
import yaml
from cfn_template import Template
from test_bundle_parts import package

from buspass_bundle import parts, sbom
from buspass_bundle.hosts import HOSTS, ROOT

BIN = ROOT / ".venv-infra" / "bin"
UV = os.environ.get("UV") or shutil.which("uv") or str(ROOT / ".cache" / "uv" / "bin" / "uv")
VALUES = yaml.safe_load((ROOT / "infra" / "aws" / "values.yaml").read_text("utf-8"))
SECONDS = 900

pytestmark = pytest.mark.verify


@pytest.fixture(scope="module", autouse=True)
def tools():
    """The environment, brought up to date."""
    subprocess.run(["make", "-s", "-C", str(ROOT), ".venv-infra", f"UV={UV}"], check=True, timeout=SECONDS)


def run(*command, cwd, **more):
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "SAM_", "CDK_", "PYTHON"))
    }
    environ |= {"AWS_DEFAULT_REGION": "eu-central-1", "AWS_EC2_METADATA_DISABLED": "true", "SAM_CLI_TELEMETRY": "0"}
    environ |= {"PATH": f"{BIN}:{os.environ['PATH']}", "JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION": "1"}
    done = subprocess.run(command, cwd=cwd, env={**environ, **more}, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A folder like a bundle's, in a checkout like ours."""
    folder = tmp_path_factory.mktemp("sam")
    code = folder / "build" / "bundles" / "lambda-arm64"
    code.mkdir(parents=True)
    (code / "lambda_function.py").write_text("handler = None\n")
    shutil.copyfile(ROOT / "template.yaml", folder / "template.yaml")
    return folder


# ── SAM ──


def test_the_linters_find_nothing(bundle):
    run(BIN / "cfn-lint", "--regions", "eu-central-1", "us-east-1", "--", "template.yaml", cwd=bundle)
    assert "is a valid SAM Template" in run(BIN / "sam", "validate", "--lint", cwd=bundle)


def test_sam_builds_what_the_bundle_target_has_made(bundle):
    run(BIN / "sam", "build", "--parameter-overrides", f"file://{ROOT}/infra/aws/values.yaml", cwd=bundle)
    built = (bundle / ".aws-sam" / "build" / "template.yaml").read_text("utf-8")
    found = Template(built, VALUES, {}).document["Resources"]
    for name in ("Gateway", "Timer"):
        code = found[name]["Properties"]["CodeUri"]
        assert (bundle / ".aws-sam" / "build" / code).resolve().joinpath("lambda_function.py").exists(), code


# ── CDK ──


@pytest.fixture(scope="module")
def synthesized(bundle):
    """The stack as the CDK app makes it. cdk-nag's findings would have failed it."""
    context = {"bundle": str(bundle / "build" / "bundles" / "lambda-arm64")}
    out = bundle / "cdk.out"
    run(BIN / "python", "app.py", cwd=ROOT / "infra" / "aws", CDK_CONTEXT_JSON=json.dumps(context), CDK_OUTDIR=str(out))
    return json.loads((out / "Buspass.template.json").read_text("utf-8"))


def kinds(document):
    return [shape["Type"] for shape in document["Resources"].values()]


def one(document, kind, **having):
    found = [
        shape
        for shape in document["Resources"].values()
        if shape["Type"] == kind and all(shape["Properties"].get(name) == value for name, value in having.items())
    ]
    assert len(found) == 1, (kind, having, len(found))
    return found[0]


def test_the_cdk_stack_has_what_the_sam_template_has(synthesized):
    asked = kinds(synthesized)
    for kind, count in {
        "AWS::DynamoDB::Table": 1, "AWS::S3::Bucket": 1, "AWS::S3::BucketPolicy": 1, "AWS::KMS::Key": 1, "AWS::KMS::Alias": 1,
        "AWS::SecretsManager::Secret": 2, "AWS::Lambda::Function": 2, "AWS::Lambda::Url": 1, "AWS::Events::Rule": 1,
        "AWS::Logs::LogGroup": 2, "AWS::Logs::MetricFilter": 2, "AWS::CloudWatch::Alarm": 5, "AWS::IAM::Role": 2,
        "AWS::IAM::Policy": 0,
    }.items():  # fmt: skip
        assert asked.count(kind) == count, (kind, asked)
    url = one(synthesized, "AWS::Lambda::Url")["Properties"]
    assert (url["AuthType"], url["InvokeMode"]) == ("NONE", "RESPONSE_STREAM")


def test_both_make_the_same_table_and_keep_it(synthesized):
    sam = Template((ROOT / "template.yaml").read_text("utf-8"), VALUES, {})
    wanted = sam.properties("Table")
    table = one(synthesized, "AWS::DynamoDB::Table")
    assert (table["DeletionPolicy"], table["UpdateReplacePolicy"]) == ("Retain", "Retain")
    for name, value in wanted.items():
        mine, other = table["Properties"][name], value
        if name == "AttributeDefinitions":
            mine, other = (sorted(each, key=lambda one: one["AttributeName"]) for each in (mine, other))
        assert mine == other, name


def test_both_give_the_same_permissions_to_the_same_functions(synthesized):
    assert permissions(synthesized, cdk_names(synthesized)) == permissions(
        Template((ROOT / "template.yaml").read_text("utf-8"), VALUES, {}).document, {}
    )


def cdk_names(document):
    """The CDK's logical ids by ours: it appends the place and a digest."""
    ours = (
        "Table",
        "Blobs",
        "DomainKey",
        "ProviderKey",
        "SigningKey",
        "GatewayLog",
        "TimerLog",
        "GatewayRole",
        "TimerRole",
    )
    found = {}
    for name in document["Resources"]:
        bare = re.sub(r"^Storage", "", re.sub(r"[0-9A-F]{8}$", "", name))
        if bare in ours:
            found[name] = bare
    assert set(found.values()) == set(ours)
    return found


def permissions(document, names):
    """Who may what on what, and what the key's policy says: words of either template in one form."""
    table = {}
    for logical, shape in document["Resources"].items():
        if shape["Type"] == "AWS::IAM::Role":
            for policy in shape["Properties"]["Policies"]:
                for statement in policy["PolicyDocument"]["Statement"]:
                    table[names.get(logical, logical), statement["Sid"]] = told(statement, names)
        if shape["Type"] == "AWS::KMS::Key":
            for statement in shape["Properties"]["KeyPolicy"]["Statement"]:
                table["SigningKey", statement["Sid"]] = told(statement, names)
    return table


def told(statement, names):
    each = {part: [named(one, names) for one in listed(statement[part])] for part in ("Action", "Resource")}
    who = [named(one, names) for one in listed(statement.get("Principal", {}).get("AWS", []))]
    return statement["Effect"], sorted(each["Action"]), sorted(each["Resource"]), sorted(who)


def listed(value):
    return value if isinstance(value, list) else [value]


def named(value, names):
    if isinstance(value, str):
        return value
    ((function, argument),) = value.items()
    match function:
        case "Ref":
            return argument if argument.startswith("AWS::") else f"{names.get(argument, argument)}.Arn"
        case "Fn::GetAtt":
            return ".".join([names.get(argument[0], argument[0]), *argument[1:]])
        case "Fn::Join":
            return (
                argument[0]
                .join(named(part, names) for part in argument[1])
                .replace("AWS::Partition", "${AWS::Partition}")
                .replace("AWS::AccountId", "${AWS::AccountId}")
            )
        case "Fn::Sub":
            return re.sub(r"\$\{(\w+\.Arn)\}", r"\1", argument)
    raise AssertionError(value)


# ── SBOM ──


def test_the_sbom_is_one_by_cyclonedxs_own_schema(tmp_path):
    lib = tmp_path / "lib"
    package(lib, "one", "License-Expression: MIT", "Requires-Dist: two")
    package(lib, "two", "License: MIT")
    (lib / "one.libs").mkdir()
    (lib / "one.libs" / "x.so.1").write_bytes(b"\x7fELF")
    document = sbom.sbom(tmp_path, HOSTS["onprem"], "x86_64", parts.parts(lib, "x86_64"))
    (tmp_path / "sbom.json").write_bytes(document)
    code = (
        "import sys; from cyclonedx.schema import SchemaVersion; from cyclonedx.validation.json import JsonStrictValidator\n"
        "found = JsonStrictValidator(SchemaVersion.V1_6).validate_str(open(sys.argv[1]).read()); sys.exit(str(found) if found else 0)"
    )
    run(BIN / "python", "-c", code, str(tmp_path / "sbom.json"), cwd=tmp_path)
