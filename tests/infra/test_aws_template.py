"""template.yaml belongs to the code, the configuration and the values beside it; nothing in it is wider than it says."""

import re

import pytest
import yaml
from cfn_template import Template

from buspass.breakers import Breakers, Fault, Key
from buspass.cli import main
from buspass.testing.clock import FakeClock
from buspass.testing.state_memory import MemoryState
from buspass_aws.dynamodb_table import definition
from buspass_bundle.hosts import ROOT

TEXT = (ROOT / "template.yaml").read_text("utf-8")
VALUES = yaml.safe_load((ROOT / "infra" / "aws" / "values.yaml").read_text("utf-8"))
CDK = [ROOT / "infra" / "aws" / name for name in ("cdk_stack.py", "cdk_storage.py")]


def template(**changed):
    arn = "arn:aws:x:eu-central-1:000000000000:"
    names = (
        "Table",
        "Blobs",
        "SigningKey",
        "DomainKey",
        "ProviderKey",
        "GatewayLog",
        "TimerLog",
        "GatewayRole",
        "TimerRole",
    )
    made = {name: {"Ref": name, "Arn": f"{arn}{name}"} for name in (*names, "Gateway", "Timer")}
    return Template(TEXT, {**VALUES, **changed}, made)


def test_the_values_are_the_parameters():
    assert VALUES.keys() == template().document["Parameters"].keys()


def test_every_value_is_used_by_the_cdk_app_too():
    code = "".join(path.read_text("utf-8") for path in CDK) + (CDK[0].with_name("app.py")).read_text("utf-8")
    asked = set(re.findall(r"""alues\[['"](\w+)['"]\]""", code))
    assert VALUES.keys() - asked == {"LocalApi"}  # for sam local alone


def test_the_table_is_the_codes_and_survives():
    found = template().properties("Table")
    shape = template().document["Resources"]["Table"]
    assert (shape["DeletionPolicy"], shape["UpdateReplacePolicy"]) == ("Retain", "Retain")
    assert found.pop("PointInTimeRecoverySpecification") == {"PointInTimeRecoveryEnabled": True}
    assert found == definition(VALUES["TableName"])


def test_the_example_configuration_names_what_is_deployed(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("BUSPASS_DATA", str(tmp_path))
    out = tmp_path / "buspass.json"
    file = ROOT / "infra" / "aws" / "buspass.yaml"
    assert main(["check", str(file), "--bind", "0.0.0.0", "--compile", str(out)]) == 0, capsys.readouterr()
    text = out.read_text("utf-8")
    for name in (VALUES["TableName"], VALUES["BucketName"]):
        assert re.search(rf"://{re.escape(name)}\?region=", text), name
    assert f'"kms://{VALUES["KeyAlias"]}"' in text
    for name in ("DomainKeySecret", "ProviderSecret"):
        assert f'"{VALUES[name]}"' in text
    assert f'"{VALUES["HostName"]}"' in text


def test_the_url_streams_by_our_runtime_or_answers_whole_by_awss():
    for streaming, handler, mode, wrapper in (
        ("true", "buspass.http.start", "RESPONSE_STREAM", "/var/task/bootstrap"),
        ("false", "lambda_function.handler", "BUFFERED", None),
    ):
        gateway = template(Streaming=streaming).properties("Gateway")
        assert gateway["Handler"] == handler
        assert gateway["FunctionUrlConfig"] == {"AuthType": "NONE", "InvokeMode": mode}
        assert gateway["Environment"]["Variables"].get("AWS_LAMBDA_EXEC_WRAPPER") == wrapper


def test_concurrency_is_asked_for_only_where_a_value_says_so():
    assert (
        not {"ReservedConcurrentExecutions", "ProvisionedConcurrencyConfig"} & template().properties("Gateway").keys()
    )
    asked = template(ReservedConcurrency="50", ProvisionedConcurrency="2").properties("Gateway")
    assert asked["ReservedConcurrentExecutions"] == "50"
    assert asked["ProvisionedConcurrencyConfig"] == {"ProvisionedConcurrentExecutions": "2"}


def test_alarms_tell_somebody_where_a_topic_is_named():
    names = template().resources("AWS::CloudWatch::Alarm")
    assert names.keys() == {f"{name}Alarm" for name in ("Errors", "Throttles", "Timer", "Overrun", "Breaker")}
    for name in names:
        assert "AlarmActions" not in template().properties(name)
        assert template(AlarmTopicArn="arn:topic").properties(name)["AlarmActions"] == ["arn:topic"]


# ── least privilege ──


def statements():
    for role in ("GatewayRole", "TimerRole"):
        for policy in template().policies(role):
            for statement in policy["Statement"]:
                yield role, statement


@pytest.mark.parametrize(
    ("role", "statement"), list(statements()), ids=lambda each: each if isinstance(each, str) else each["Sid"]
)
def test_no_role_may_more_than_it_says_action_by_action(role, statement):
    actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
    assert [action for action in actions if "*" in action or "?" in action] == []
    assert statement["Effect"] == "Allow"
    resources = statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
    wide = [resource for resource in resources if "*" in resource]
    assert wide == ([f"{template().made['Blobs']['Arn']}/*"] if statement["Sid"] == "Blobs" else [])


def test_every_star_has_its_reason_beside_it():
    wide = [
        line
        for line in TEXT.splitlines()
        if re.search(r"""^[^#]*(Action|Resource|Principal): [^#]*\*(?![a-z])""", line)
    ]  # but no anchor
    assert len(wide) == 6
    assert [line for line in wide if not re.search(r"# .{10,}", line)] == []


# ── what alarms listen for is what is said ──


def found_by(name, line):
    """Say whether a filter of the template finds a line, as CloudWatch would: `*` stands for anything."""
    pattern = template().properties(name)["FilterPattern"]
    wanted = re.fullmatch(r'\{ \$\.message = "(.+)" \}', pattern)[1]
    assert f'"{wanted}"' in CDK[0].read_text("utf-8")
    return re.fullmatch(re.escape(wanted).replace(r"\*", ".*"), line) is not None


async def test_a_filter_finds_a_breaker_that_opens_each_time_and_nothing_else_that_it_logs(caplog):
    caplog.set_level("INFO", "buspass")
    clock, dead = FakeClock(), Fault(kind="unreachable")
    breakers, key = Breakers(MemoryState(), clock), Key("model", "openai/gpt-5", address="https://api.openai.com/v1")
    for _ in range(3):
        await breakers.failed(key, dead)
    for well in (False, True, True, True):
        clock.advance(700)
        passed = await breakers.enter(key, wait=0, lasts=1)
        await (passed.succeeded() if well else passed.failed(dead))
    lines = [(record.getMessage(), found_by("BreakerFilter", record.getMessage())) for record in caplog.records]
    assert lines == [
        ("breaker model openai/gpt-5: closed, then suspect", False),
        ("breaker model openai/gpt-5: suspect, then open", True),
        ("breaker model openai/gpt-5: open, then half_open", False),
        ("breaker model openai/gpt-5: half_open, then open", True),
        ("breaker model openai/gpt-5: open, then half_open", False),
        ("breaker model openai/gpt-5: half_open, then recovering", False),
        ("breaker model openai/gpt-5: recovering, then closed", False),
    ]


def test_a_filter_finds_the_line_that_tells_of_an_overrun():
    assert found_by("OverrunFilter", "overrun of tokens cost in task t_1: more was billed than was held")
    assert '"overrun of %s in task %s' in (ROOT / "core" / "buspass" / "calls" / "endings.py").read_text("utf-8")
