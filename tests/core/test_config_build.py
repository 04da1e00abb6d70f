"""A valid buspass.yaml means one thing: defaults filled in, units fixed, everything resolved."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from buspass.config import prices
from buspass.config.advice import advice
from buspass.config.build import load
from buspass.config.settings import (
    After,
    AgentRule,
    Auth,
    Host,
    IdentityProvider,
    Model,
    OperatorRule,
    Price,
    Provider,
    Settings,
    Step,
    SubjectClaims,
    SubjectRule,
    Target,
    Tier,
    Workflow,
)
from buspass.errors import ConfigError

SMALLEST = """version: 1
workflows:
  my-agent:
    models: [openai/gpt-5-mini]
    budget: {cost: 0.50}
"""
BARE = "version: 1\nworkflows: {w: {}}\n"
ENVIRON = {"HOME": "/home/me"}

WHOLE = """version: 1
issuer: https://gateway.example.com
domain_key: {secret: BUSPASS_DOMAIN_KEY}
hosts:
  aws:    {url: https://x.lambda-url.eu-central-1.on.aws, cloud: aws, region: eu-central-1, signer: kms://alias/buspass}
  azure:  {url: https://x.azurewebsites.net, cloud: azure, region: westeurope, signer: keyvault://VAULT/KEY}
  onprem: {url: https://gateway.corp, cloud: onprem, region: fra1}
state: dynamodb://TABLE?region=eu-central-1
queue: sqs://URL
blobs: s3://BUCKET
identity:
  - {name: entra, issuer: https://login.microsoftonline.com/TENANT/v2.0, audience: api://buspass, claims: {agent: azp, tenant: tid}}
  - {name: aws, issuer: https://x.tokens.sts.global.api.aws, audience: https://gateway.example.com, claims: {agent: sub}}
  - {name: shop, issuer: https://login.shop.example, audience: api://buspass, subject: {type: customer, id: sub}}
providers:
  openai:  {api: openai, base_url: https://api.openai.com/v1, auth: {bearer: {secret: OPENAI_API_KEY}}, limits: {rpm: 5000, tpm: 2000000}}
  azure:   {api: azure-openai, base_url: https://x.openai.azure.com, auth: {azure: {scope: https://cognitiveservices.azure.com/.default}}, region: westeurope}
  claude:  {api: anthropic, base_url: https://api.anthropic.com, auth: {header: {name: x-api-key, secret: ANTHROPIC_API_KEY}}}
  bedrock: {api: bedrock, region: eu-central-1, auth: {aws: {role: 'arn:aws:iam::1:role/inference'}}}
  local:   {api: openai, base_url: http://vllm.internal:8000/v1, auth: none}
models:
  classify: {targets: [{provider: local, model: qwen3-8b}, {provider: openai, model: gpt-5-nano}], timeout: {first_token: 2s, total: 10s}, max_output: 256}
  plan:
    strategy: weighted
    targets: [{provider: azure, model: gpt-5, weight: 95}, {provider: claude, model: claude-opus-4-5, weight: 5, canary: {max_error_rate: 2%, min_calls: 50}}]
    max_output: 4096
    shadow: {provider: bedrock, model: nova, sample: 1%, pool: experiments}
    retry: {attempts: 3, budget: 20%}
    hedge: {after: p95, max: 5%}
    cache: {ttl: 10m, share: subject}
prices: {openai/gpt-9: {input: 1.25, output: 10.00, cached_input: 0.125}, local/qwen3-8b: {input: 0, output: 0}, azure/gpt-5: {input: 1, output: 2}, claude/claude-opus-4-5: {input: 5, output: 25}}
tools:
  get_customer: {description: One., hosts: [aws], http: {method: GET, url: 'https://data.example.com/customers/{id}'}, input: {type: object, properties: {id: {type: string}}, required: [id]}, output: {type: object}, timeout: 3s, auth: {txn: {audience: data.example.com}}}
  legal_check:  {http: {method: POST, url: https://legal.example/checks}, input: {type: object}, output: {type: object}, keep: {approved: /approved, order: /order_id}}
  refund:       {http: {method: POST, url: https://pay.example/refunds}, input: {type: object, properties: {order_id: {type: string}}}, output: {type: object}, idempotent: false, mode: queued, rate: 10/s, approval: {when: 'input.call.arguments.amount > 200', expires: 1h}}
  erp:          {openapi: erp.json, operations: [getStock, reserveStock]}
  docs:         {mcp: https://mcp.internal/mcp, tools: [search]}
  orders:       {sql: 'SELECT id, total FROM orders WHERE customer_id = :customer_id', database: {secret: ORDERS_DSN}, input: {type: object}}
  status:       {http: {method: GET, url: https://status.example}, polling: {min_interval: 5s}}
workflows:
  return-exception:
    agents: [{identity: entra, agent: 'CLIENT-ID'}]
    subject: {types: [customer], proof: token}
    models: [classify, plan]
    tools:
      - {tool: get_customer, where: {id: $subject.id}}
      - {tool: legal_check, after: [get_customer]}
      - {tool: refund, max_calls: 1, after: [{tool: legal_check, where: {approved: true, order: $arguments.order_id}, within: 10m}]}
      - erp
      - docs_search
    budget: {tokens: 60000, cost: 0.50, calls: 40, model_calls: 20, tool_calls: 20, wall: 10m, depth: 2, wait: 2s, soft: 80%}
    pool: support
    token_ttl: 1h
    enforce: on
    require_thought: true
    loops: {identical: 3, signature: 5, cycle: 3, action: kill}
    logging: {payloads: redacted, retain: 30d}
    replay: {ttl: 24h}
    personal_data: {to_models: placeholder, to_tools: {refund: [email]}, to_agent: restore, block: [credit_card]}
    hosted_tools: {web_search: {price: 0.01}}
    data_residency: [eu]
pools:
  company: {cost: 5000/month}
  support: {cost: 200/day, parent: company}
inspectors: [{name: moderation, webhook: https://moderation.example, on: [request, response], timeout: 300ms, fail: closed}]
webhooks: {alerts: {url: https://alerts.example, on: [soft_limit, killed, breaker, approval]}}
telemetry: {otlp: https://collector:4318}
peers:    {partner: {url: https://partner.example, issuer: https://partner.example}}
policy:   {path: policies/, engine: wasm}
operators: [{identity: entra, group: platform-team}]
"""

NOT_YET = """9:8 queue: this queue; allowed: sqlite://
17:18 providers.azure.api: this wire format; allowed: openai, anthropic
17:84 providers.azure.auth.azure: auth: azure
19:18 providers.bedrock.api: this wire format; allowed: openai, anthropic
19:61 providers.bedrock.auth.aws: auth: aws
25:122 models.plan.targets[1].canary: canaries
27:13 models.plan.shadow: shadow calls
29:12 models.plan.hedge: hedged calls
30:12 models.plan.cache: cached answers
35:186 tools.refund.mode: queued tools; allowed: direct
35:216 tools.refund.approval: approvals
36:27 tools.erp.openapi: tools from an OpenAPI document
37:23 tools.docs.mcp: tools of an MCP server
38:23 tools.orders.sql: SQL tools
60:19 workflows.return-exception.hosted_tools: tools that a provider runs itself
61:21 workflows.return-exception.data_residency: data residency
65:13 inspectors: inspectors
66:84 webhooks.alerts.on[3]: messages of approvals; allowed: soft_limit, killed, breaker
67:12 telemetry: telemetry
69:37 policy.engine: this policy engine; allowed: embedded, opa
"""


def settings(tmp_path, text=BARE, environ=ENVIRON, **where):
    file = tmp_path / "buspass.yaml"
    file.write_text(text, encoding="utf-8")
    return load(file, environ=environ, **where)


def problems(tmp_path, text, **where):
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, text, **where)
    return [line.removeprefix(f"{tmp_path}/buspass.yaml:") for line in caught.value.problems]


SMALLEST_WORKFLOWS = {
    "my-agent": Workflow(
        name="my-agent",
        agents=(AgentRule(identity="local", agent="*"),),
        subject=None,
        models=("openai/gpt-5-mini",),
        route={},
        limits={"cost": 500_000},
        wall=1800.0,
        depth=2,
        wait=2.0,
        token_ttl=3600.0,
        require_thought=False,
        payloads="metadata",
        retain=2_592_000.0,
        replay_ttl=86_400.0,
    )
}


SMALLEST_MODELS = {
    "openai/gpt-5-mini": Model(
        alias="openai/gpt-5-mini",
        targets=(
            Target(
                provider="openai",
                model="gpt-5-mini",
                weight=1,
                price=Price(
                    input=250_000,
                    output=2_000_000,
                    cached_input=25_000,
                    cache_write=250_000,
                    cache_write_1h=250_000,
                    version=prices.version(),
                ),
            ),
        ),
        strategy="priority",
        first_token=30.0,
        total=120.0,
        attempts=2,
        max_output=4096,
    )
}


def test_the_smallest_useful_file_means_this(tmp_path):
    found = settings(tmp_path, SMALLEST)
    data = "/home/me/.local/share/buspass"
    assert found == Settings(
        revision=found.revision,
        issuer="http://127.0.0.1:8700",
        domain_key=None,
        hosts={
            "onprem": Host(
                name="onprem",
                url="http://127.0.0.1:8700",
                cloud="onprem",
                region="",
                signer=f"file:///{data}/keys/onprem.pem",
                state=f"sqlite:///{data}/state.db",
                queue=f"sqlite:///{data}/queue.db",
                blobs=f"file:///{data}/blobs",
            )
        },
        identity={},
        local_issuer=True,
        providers={
            "openai": Provider(
                name="openai",
                api="openai",
                base_url="https://api.openai.com/v1",
                auth=Auth(kind="bearer", secret="OPENAI_API_KEY"),
            )
        },
        models=SMALLEST_MODELS,
        tools={},
        workflows=SMALLEST_WORKFLOWS,
        policy={},
        operators=(),
        plain_http=frozenset(),
    )


def test_the_whole_shape_is_valid_and_what_is_not_built_is_refused_by_name(tmp_path):
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "a.rego").write_text("package buspass.call\n")
    found = [line.replace("not available yet: ", "") for line in problems(tmp_path, WHOLE)]
    assert found == NOT_YET.splitlines()
    assert all("not available yet: " in line for line in problems(tmp_path, WHOLE))


def test_the_example_of_the_returns_desk_loads(tmp_path):
    found = load(Path(__file__).parents[2] / "examples" / "returns" / "buspass.yaml", environ=ENVIRON)
    flow = found.workflows["return-exception"]
    assert list(found.hosts) == ["aws", "azure", "onprem"]
    assert flow.subject == SubjectRule(types=("customer",), proof="token")
    assert flow.route["refund"] == Step(
        tool="refund",
        where={"customer_id": "$subject.id"},
        after=(After(tool="legal_check", where={"approved": True, "order": "$arguments.order_id"}, within=600.0),),
        max_calls=1,
    )
    assert flow.limits == {
        "tokens": 60_000,
        "cost": 500_000,
        "calls": 40,
        "model_calls": 20,
        "tool_calls": 20,
    }
    assert set(found.policy) == {"returns.rego", "start.rego"}
    assert not found.local_issuer


def test_paths_are_relative_to_the_file_and_become_absolute(tmp_path):
    text = BARE + "state: sqlite:///data/../s.db?durability=process\nblobs: file:////var/blobs\nsigner: file:///k.pem\n"
    host = settings(tmp_path, text).hosts["onprem"]
    assert host.state == f"sqlite:///{tmp_path}/s.db?durability=process"
    assert host.blobs == "file:////var/blobs"
    assert host.signer == f"file:///{tmp_path}/k.pem"


def test_a_relative_file_name_is_no_different(tmp_path, monkeypatch):
    (tmp_path / "b.yaml").write_text(BARE + "state: sqlite:///s.db\n")
    monkeypatch.chdir(tmp_path)
    assert load(Path("b.yaml"), environ=ENVIRON).hosts["onprem"].state == f"sqlite:///{Path.cwd()}/s.db"


def test_a_host_overrides_what_the_domain_has(tmp_path):
    text = BARE + (
        "issuer: https://g.example/\nstate: sqlite:////d/s.db\nhosts:\n"
        "  a: {url: https://a.example/, cloud: aws, region: r}\n"
        "  b: {url: https://b.example, cloud: azure, state: 'memory://', blobs: 'file:////b'}\n"
    )
    found = settings(tmp_path, text, {"BUSPASS_DATA": "/data"})
    assert found.issuer == "https://g.example"
    assert found.hosts["a"].url == "https://a.example"
    assert [host.state for host in found.hosts.values()] == ["sqlite:////d/s.db", "memory://"]
    assert [host.blobs for host in found.hosts.values()] == ["file:////data/blobs", "file:////b"]
    assert [host.signer for host in found.hosts.values()] == ["file:////data/keys/a.pem", "file:////data/keys/b.pem"]


def test_a_file_without_hosts_is_the_host_it_runs_on(tmp_path):
    host = settings(tmp_path, environ={"BUSPASS_HOST": "lab", **ENVIRON}, bind="::1", port=9000).hosts["lab"]
    assert (host.name, host.url, host.cloud) == ("lab", "http://[::1]:9000", "onprem")
    found = settings(tmp_path, environ={"BUSPASS_URL": "https://lab.example/", **ENVIRON})
    assert found.hosts["onprem"].url == found.issuer == "https://lab.example"
    empty = settings(tmp_path, environ={"BUSPASS_URL": "", **ENVIRON}, port=9000)
    assert empty.hosts["onprem"].url == "http://127.0.0.1:9000"


def test_an_identity_ends_the_local_issuer_and_nobody_may_start_what_names_no_agents(tmp_path):
    text = BARE + "identity: [{name: a, issuer: 'https://i.example/', audience: x, claims: {agent: azp}}]\n"
    found = settings(tmp_path, text)
    assert not found.local_issuer
    assert found.workflows["w"].agents == ()
    assert found.identity["a"].issuer == "https://i.example/"
    assert "workflows.w.agents: nobody may start it" in advice(found)


def test_globs_may_name_agents_of_any_identity(tmp_path):
    text = "version: 1\nworkflows: {w: {agents: [{identity: 'l*', agent: 'team-*'}]}}\n"
    assert settings(tmp_path, text).workflows["w"].agents == (AgentRule(identity="l*", agent="team-*"),)


def test_operators_come_from_the_claim_groups_unless_another_is_named(tmp_path):
    text = BARE + (
        "identity:\n"
        "  - {name: a, issuer: https://a.example, audience: x, claims: {agent: azp}}\n"
        "  - {name: b, issuer: https://b.example, audience: x, claims: {groups: roles}}\n"
        "  - {name: c, issuer: https://c.example, audience: x, subject: {type: customer, id: sub}}\n"
        "operators: [{identity: a, group: g}, {identity: b, group: h}]\n"
    )
    found = settings(tmp_path, text)
    assert [dict(each.claims) for each in found.identity.values()] == [
        {"groups": "groups", "agent": "azp"},
        {"groups": "roles"},
        {},
    ]
    assert found.identity["c"] == IdentityProvider(
        name="c",
        issuer="https://c.example",
        audience="x",
        claims={},
        subject=SubjectClaims(type="customer", id="sub"),
    )
    assert found.operators == (OperatorRule(identity="a", group="g"), OperatorRule(identity="b", group="h"))


def test_a_price_is_the_files_own_then_the_public_lists_by_provider_then_by_its_api(tmp_path):
    text = """version: 1
providers:
  mine: {api: openai, base_url: https://m.example, auth: none}
prices: {openai/gpt-5: {input: 9.000001, output: 0}}
models:
  m: {targets: [{provider: mine, model: gpt-5-nano}, {provider: mine, model: other}]}
workflows: {w: {models: [m, openai/gpt-5, openai/gpt-5-mini]}}
"""
    found = settings(tmp_path, text)
    priced = {target.model: target.price for model in found.models.values() for target in model.targets}
    assert priced["other"] is None
    assert {
        model: (each.input, each.output, each.cached_input, each.version) for model, each in priced.items() if each
    } == {
        "gpt-5-nano": (50_000, 400_000, 5_000, prices.version()),
        "gpt-5": (9_000_001, 0, 9_000_001, "file"),
        "gpt-5-mini": (250_000, 2_000_000, 25_000, prices.version()),
    }
    assert "workflows.w.models: no price for 'mine/other', so its cost will not be counted" in advice(found)


@pytest.mark.parametrize(
    ("cost", "micro"),
    [("0.50", 500_000), ("0.1", 100_000), ("0.000001", 1), ("1e2", 100_000_000), ("0", 0), ("4.35", 4_350_000)],
)
def test_money_is_exact(tmp_path, cost, micro):
    text = f"version: 1\nworkflows: {{w: {{budget: {{cost: {cost}}}}}}}\n"
    assert settings(tmp_path, text).workflows["w"].limits == {"cost": micro}


def test_timeouts_that_depend_on_each_other_never_cross(tmp_path):
    text = """version: 1
models:
  a: {targets: [{provider: openai, model: gpt-5}], timeout: {total: 10s}}
  b: {targets: [{provider: openai, model: gpt-5}], timeout: {first_token: 5m}}
  c: {targets: [{provider: openai, model: gpt-5}], timeout: {first_token: 300ms, total: 1.5s}}
providers: {openai: {api: openai, base_url: https://api.openai.com/v1/, auth: none}}
workflows: {w: {models: [a, b, c]}}
"""
    models = settings(tmp_path, text).models
    assert [(model.first_token, model.total) for model in models.values()] == [(10, 10), (300, 300), (0.3, 1.5)]


def test_a_tool_is_idempotent_by_its_method_unless_it_says_otherwise(tmp_path):
    text = BARE + "tools:\n"
    for name, more in [("GET", ""), ("PUT", ""), ("DELETE", ""), ("POST", ""), ("PATCH", "")]:
        text += f"  {name}: {{http: {{method: {name}, url: https://t.example}}{more}}}\n"
    text += "  SAFE: {http: {method: POST, url: https://t.example}, idempotent: true}\n"
    tools = settings(tmp_path, text).tools
    assert {name for name, tool in tools.items() if tool.idempotent} == {"GET", "PUT", "DELETE", "SAFE"}
    assert tools["GET"].input == {"type": "object", "properties": {}, "additionalProperties": False}


def test_auth_is_one_of_what_is_built(tmp_path):
    text = BARE + "tools:\n"
    for name, auth in [
        ("a", "none"),
        ("b", "{bearer: {secret: TOKEN}}"),
        ("c", "{header: {name: X-Key, secret: KEY}}"),
        ("d", "{txn: {audience: data}}"),
    ]:
        text += f"  {name}: {{http: {{method: GET, url: https://t.example}}, auth: {auth}}}\n"
    assert [tool.auth for tool in settings(tmp_path, text).tools.values()] == [
        Auth(kind="none"),
        Auth(kind="bearer", secret="TOKEN"),
        Auth(kind="header", header="X-Key", secret="KEY"),
        Auth(kind="txn", audience="data"),
    ]


def test_numbers_inside_a_json_schema_are_jsons(tmp_path):
    text = BARE + (
        "tools: {t: {http: {method: GET, url: https://t.example}, "
        "input: {type: object, properties: {n: {type: number, minimum: 0.5, default: null}}}}}\n"
    )
    found = settings(tmp_path, text).tools["t"].input["properties"]["n"]
    assert found == {"type": "number", "minimum": 0.5, "default": None}
    assert type(found["minimum"]) is float


def test_plain_http_is_collected_by_host_and_port_but_for_loopback(tmp_path):
    text = BARE + (
        "issuer: http://127.0.0.1:1\n"
        "hosts: {a: {url: 'http://[::1]:2', cloud: aws}}\n"
        "identity: [{name: i, issuer: http://localhost/x, audience: x, claims: {agent: azp}},"
        " {name: j, issuer: http://idp.corp/x, audience: x, claims: {agent: azp}}]\n"
        "providers: {p: {api: openai, base_url: http://vllm.internal:8000/v1, auth: none}}\n"
        "tools: {t: {http: {method: GET, url: 'http://[fd00::1]/x'}}, u: {http: {method: GET, url: https://u.example}}}\n"
    )
    found = settings(tmp_path, text)
    assert found.plain_http == {"vllm.internal:8000", "[fd00::1]:80", "idp.corp:80"}
    assert "http://idp.corp:80: not encrypted; whoever carries it can read and change it" in advice(found)


def test_replay_can_be_switched_off(tmp_path):
    text = "version: 1\nworkflows: {w: {replay: off, logging: {payloads: full, retain: 1d}}}\n"
    flow = settings(tmp_path, text).workflows["w"]
    assert (flow.replay_ttl, flow.payloads, flow.retain) == (0.0, "full", 86_400.0)


def test_policies_are_read_by_their_relative_names_without_their_tests(tmp_path):
    folder = tmp_path / "p" / "deep"
    folder.mkdir(parents=True)
    (folder / "b.rego").write_text("package buspass.call\n")
    (folder / "b_test.rego").write_text("package buspass.call_test\n")
    (tmp_path / "p" / "notes.txt").write_text("no module")
    assert settings(tmp_path, BARE + "policy: {path: p, engine: embedded}\n").policy == {
        "deep/b.rego": "package buspass.call\n"
    }


def test_the_revision_follows_what_is_said_and_not_how(tmp_path):
    base = settings(tmp_path, SMALLEST).revision
    assert len(base) == 16
    int(base, 16)
    assert settings(tmp_path, "# said otherwise\n" + SMALLEST.replace("0.50", "0.5")).revision == base
    assert settings(tmp_path, SMALLEST, {"BUSPASS_DATA": "/elsewhere"}, port=9000).revision == base
    changed = {
        settings(tmp_path, SMALLEST.replace("0.50", "0.51")).revision,
        settings(tmp_path, SMALLEST + "prices: {openai/gpt-5-mini: {input: 1, output: 1}}\n").revision,
    }
    (tmp_path / "a.rego").write_text("package buspass.call\n")
    changed.add(settings(tmp_path, SMALLEST + "policy: {path: .}\n").revision)
    (tmp_path / "a.rego").write_text("package buspass.call # more\n")
    changed.add(settings(tmp_path, SMALLEST + "policy: {path: .}\n").revision)
    assert len(changed | {base}) == 5


def test_the_revision_follows_the_public_prices_in_force(tmp_path, monkeypatch):
    revisions = {settings(tmp_path, SMALLEST).revision}
    base = Price(input=1, output=1, cached_input=1, version="v")
    above = Tier(start=9, input=2, output=2, cached_input=2)
    for price in (base, replace(base, cache_write=2), replace(base, tiers=(above,))):
        monkeypatch.setattr(prices, "listed", lambda *_, price=price: price)
        revisions.add(settings(tmp_path, SMALLEST).revision)
    assert len(revisions) == 4


def test_what_is_allowed_and_worth_a_second_look_is_said(tmp_path):
    found = settings(tmp_path, "version: 1\nworkflows: {w: {require_thought: true}}\nstate: memory://\n")
    assert advice(found) == (
        "workflows.w: grants neither models nor tools",
        "workflows.w.require_thought: no model is granted, so every action will be refused",
        "hosts.onprem.state: memory:// forgets every task and its spending when the process ends",
    )
    two = {"a": found.hosts["onprem"], "b": found.hosts["onprem"]}
    assert any(line.startswith("domain_key:") for line in advice(replace(found, hosts=two)))


def test_a_file_that_cannot_be_read_is_told_in_one_line(tmp_path):
    for path, reason in [(tmp_path / "none.yaml", "No such file or directory"), (tmp_path, "Is a directory")]:
        with pytest.raises(ConfigError) as caught:
            load(path, environ={})
        assert caught.value.problems == (f"{path}:1:1 (document): cannot be read: {reason}",)


def test_settings_bring_neither_pydantic_nor_yaml():
    code = (
        "import sys, buspass.config.settings; print(sorted({'yaml', 'pydantic', 'jsonschema_rs'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert done.stdout.strip() == "[]"
