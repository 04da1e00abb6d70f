"""What others' tools say of infra/ and onprem/: pycep and checkov, hadolint, helm and kubectl-validate. All of it offline.

`make tools` brings them; `make verify` begins with that, beside the other tests.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "infra" / "onprem" / "chart"
VALUES = sorted((CHART / "ci").glob("*-values.yaml"))
BIN = ROOT / ".venv-scan" / "bin"
KUBERNETES = "1.32"
SECONDS = 1800

pytestmark = pytest.mark.verify


@pytest.fixture(scope="session")
def tools():
    """Each tool's path by its name. What is not there yet is made, and what another process makes is waited for."""
    done = subprocess.run(["make", "-s", "tools"], cwd=ROOT, text=True, capture_output=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr[-3000:]
    made = {path.name: path for path in (ROOT / ".cache" / "tools").glob("*/*")}
    return {"python": BIN / "python", "checkov": BIN / "checkov", "hadolint": BIN / "hadolint", **made}


def run(*words, **options):
    return subprocess.run([str(word) for word in words], text=True, capture_output=True, timeout=SECONDS, **options)


def checkov(tools, framework, *where):
    """The checks that failed, and those that were left out with a reason."""
    done = run(
        tools["checkov"], "--framework", framework, *where, "--skip-download", "--output", "json", "--compact", cwd=ROOT
    )
    found = json.loads(done.stdout)
    assert found["summary"]["parsing_errors"] == 0
    assert found["summary"]["passed"] > 5
    return [(each["check_id"], each["resource"]) for each in found["results"]["failed_checks"]], found["summary"]


def test_every_module_of_bicep_parses(tools):
    code = (
        "import pathlib, sys\nfrom pycep import BicepParser\nparser = BicepParser()\n"
        "for path in sorted(pathlib.Path(sys.argv[1]).rglob('*.bicep')):\n"
        "    print(path.stem, len(parser.parse(text=path.read_text('utf-8')).get('resources', {})))\n"
    )
    done = run(tools["python"], "-c", code, ROOT / "infra" / "azure")
    counts = dict(line.split() for line in done.stdout.splitlines())
    assert set(counts) == {path.stem for path in (ROOT / "infra" / "azure").rglob("*.bicep")}, done.stderr[-3000:]
    assert int(counts["app"]) > 8


def test_checkov_finds_nothing_in_the_bicep(tools):
    failed, summary = checkov(tools, "bicep", "--directory", "infra/azure")
    assert failed == []
    reasons = "".join(path.read_text("utf-8") for path in (ROOT / "infra" / "azure").rglob("*.bicep"))
    assert summary["skipped"] == reasons.count(
        "checkov:skip="
    )  # none that nothing needs; test_azure_template.py reads them


def test_hadolint_finds_nothing_in_the_dockerfile(tools):
    done = run(tools["hadolint"], ROOT / "onprem" / "Dockerfile")
    assert (done.returncode, done.stdout) == (0, "")


def test_hadolint_would_have(tools):
    done = run(tools["hadolint"], "-", input="FROM python\nRUN cd /tmp && pip install uv\n")
    assert done.returncode == 1
    assert {"DL3006", "DL3003"} <= set(re.findall(r"DL\d+", done.stdout))


# ── the chart ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="session", params=VALUES, ids=lambda path: path.stem)
def rendered(request, tools):
    done = template(tools, request.param)
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def template(tools, values, *more):
    return run(tools["helm"], "template", "chart", CHART, "--kube-version", KUBERNETES, "--values", values, *more)


def kinds(rendered):
    return {(each["kind"], each["metadata"]["name"]): each for each in rendered}


def pods(rendered):
    return {
        each["metadata"]["name"]: each["spec"]["template"]["spec"]
        for each in rendered
        if "template" in each.get("spec", {})
    }


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_helm_lints_it(tools, values):
    done = run(tools["helm"], "lint", "--strict", CHART, "--kube-version", KUBERNETES, "--values", values)
    assert done.returncode == 0, done.stdout + done.stderr


def validate(tools, rendered, folder):
    (folder / "rendered.yaml").write_text(yaml.safe_dump_all(rendered))
    return run(tools["kubectl-validate"], folder / "rendered.yaml")


def test_kubernetes_takes_all_of_it(tools, rendered, tmp_path):
    done = validate(tools, rendered, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_field_that_is_misspelt_would_be_seen(tools, rendered, tmp_path):
    next(iter(pods(rendered).values()))["containers"][0]["readynessProbe"] = {}
    assert validate(tools, rendered, tmp_path).returncode != 0


@pytest.mark.parametrize(
    "wrong",
    [
        "image.digest=latest",
        "image.repository=",
        "config=",
        "secrets=null",
        "replicas=0",
        "redis.enabled=true,redis.image=redis:8",
        "opa.enabled=true,opa.image=openpolicyagent/opa:1.22.0",
        "ingress.enabled=true,ingress.host=",
        "unknown=1",
        "networkPolicy.allow=all",
    ],
)
def test_the_schema_refuses(tools, wrong):
    external = CHART / "ci" / "external-values.yaml"
    assert template(tools, external).returncode == 0
    done = template(tools, external, "--set", wrong)
    assert done.returncode != 0
    assert "schema" in done.stderr


def test_every_pod_is_nobody_in_a_read_only_root(rendered):
    for name, pod in pods(rendered).items():
        context = pod["securityContext"]
        assert (context["runAsNonRoot"], context["runAsUser"], context["seccompProfile"]) == (
            True,
            10001,
            {"type": "RuntimeDefault"},
        ), name
        for container in pod["containers"]:
            confined = container["securityContext"]
            assert confined["readOnlyRootFilesystem"] is True
            assert confined["allowPrivilegeEscalation"] is False
            assert confined["capabilities"] == {"drop": ["ALL"]}
            assert {"startupProbe", "readinessProbe", "livenessProbe", "resources"} <= set(container)
            assert "@sha256:" in container["image"]


def test_no_secret_is_rendered_and_each_is_referred_to(rendered):
    assert not [each for each in rendered if each["kind"] == "Secret"]
    volume = next(each for each in pods(rendered)["chart"]["volumes"] if each["name"] == "secrets")
    keys = {item["path"] for source in volume["projected"]["sources"] for item in source["secret"]["items"]}
    config = kinds(rendered)["ConfigMap", "chart"]["data"]["buspass.yaml"]
    named = set(re.findall(r"secret: (\w+)", config)) | set(re.findall(r"password=(\w+)", config)) | {"OPENAI_API_KEY"}
    assert named <= keys
    assert ("signer.pem" in keys) == ("/run/secrets/signer.pem" in config)


def test_there_are_as_many_as_are_asked_for_and_enough_of_them_stay(rendered):
    found = kinds(rendered)
    deployment = found["Deployment", "chart"]["spec"]
    assert ("replicas" in deployment) != (("HorizontalPodAutoscaler", "chart") in found)
    budget = found["PodDisruptionBudget", "chart"]["spec"]
    assert budget["selector"] == deployment["selector"]
    labels = deployment["template"]["metadata"]["labels"]
    assert budget["selector"]["matchLabels"].items() <= labels.items()
    assert found["Service", "chart"]["spec"]["selector"].items() <= labels.items()


def test_only_what_is_named_reaches_a_pod(rendered):
    for each in rendered:
        if each["kind"] == "NetworkPolicy":
            assert each["spec"]["policyTypes"] == ["Ingress", "Egress"]
            assert all(rule.get("from") and rule.get("ports") for rule in each["spec"]["ingress"])
            assert all(rule.get("ports") for rule in each["spec"]["egress"])
    covered = [
        each["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
        for each in rendered
        if each["kind"] == "NetworkPolicy"
    ]
    assert sorted(covered) == sorted({"chart": "gateway", "chart-redis": "redis"}[name] for name in pods(rendered))


def test_buspass_check_takes_the_configuration_that_is_mounted(rendered, tmp_path):
    data = kinds(rendered)["ConfigMap", "chart"]["data"]
    volume = next(each for each in pods(rendered)["chart"]["volumes"] if each["name"] == "config")
    for item in volume["configMap"]["items"]:
        path = tmp_path / item["path"]
        path.parent.mkdir(exist_ok=True)
        path.write_text(data[item["key"]])
    done = run(sys.executable, "-m", "buspass", "check", tmp_path / "buspass.yaml", "--bind", "0.0.0.0")
    assert (done.returncode, done.stderr) == (0, "")
