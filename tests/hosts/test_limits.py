"""What `buspass check` says of a host's time is what the host has."""

from pathlib import Path

from buspass.config.advice import KEPT, advice
from buspass.config.build import load
from buspass.ports.outbound import Request
from buspass_aws import invocation, runtime
from buspass_azure.invocation import LIMITS as AZURE
from buspass_onprem.server import LIMITS as ONPREM

CONFIG = """
version: 1
issuer: https://x.example
domain_key: {secret: K}
identity: [{name: i, issuer: 'https://i.example', audience: a, claims: {agent: azp}}]
hosts:
  here:  {url: 'https://here.example', cloud: onprem}
  cloud: {url: 'https://cloud.example', cloud: azure}
  far:   {url: 'https://far.example', cloud: aws}
providers:
  sim: {api: openai, base_url: 'https://sim.example/v1', auth: none}
models:
  usual: {targets: [{provider: sim, model: a}]}
  long:  {targets: [{provider: sim, model: a}], timeout: {first_token: 30s, total: 300s}}
  late:  {targets: [{provider: sim, model: a}], timeout: {first_token: 240s, total: 2000s}}
prices:
  sim/a: {input: 1.00, output: 1.00}
tools:
  there: {description: A, hosts: [here], http: {method: GET, url: 'https://t.example/'}, timeout: 230s, input: {type: object}}
  all:   {description: A, http: {method: GET, url: 'https://t.example/'}, timeout: 230s, input: {type: object}}
workflows:
  w: {loops: off, models: [usual, long, late], tools: [there, all], budget: {cost: 1.00}}
"""


def test_the_table_is_the_hosts_own():
    found = {
        "aws": [invocation.LIMITS, runtime.LIMITS],
        "azure": [AZURE],
        "onprem": [ONPREM],
    }
    for cloud, limits in found.items():
        assert {(each.first_byte, each.total) for each in limits} == {KEPT[cloud]}


def test_no_answer_that_is_taken_from_a_provider_or_tool_is_larger_than_a_host_can_give():
    """Buffered Lambda alone carries less: there `buspass_aws.asgi` answers 502 in its place."""
    most = Request(method="GET", url="http://x", headers={}, timeout=1).limit
    assert most <= min(limits.response_bytes for limits in (runtime.LIMITS, AZURE, ONPREM))


def test_a_timeout_that_a_host_cannot_keep_is_warned_of(tmp_path: Path):
    (tmp_path / "buspass.yaml").write_text(CONFIG)
    told = [line for line in advice(load(tmp_path / "buspass.yaml", environ={"K": "5a" * 32})) if "timeout" in line]
    assert sorted(told) == sorted(
        [
            "models.long.timeout.total: host 'cloud' ends an answer that is no stream after 225 s",
            "models.late.timeout.first_token: host 'cloud' waits 225 s for an answer to begin",
            *(
                f"models.late.timeout.total: host '{host}' ends every call after {seconds} s"
                for host, seconds in {"here": 900, "cloud": 590, "far": 900}.items()
            ),
            "tools.all.timeout: host 'cloud' ends a call after 225 s",
        ]
    )
