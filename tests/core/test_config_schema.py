"""Every fault of buspass.yaml is told in one line: where it is, what is wrong, what is allowed."""

import pytest

from buspass.config.document import parse
from buspass.config.validate import validate
from buspass.errors import ConfigError

TOP = "version: 1\nworkflows: {w: {models: [openai/gpt-5-mini]}}\n"
WORKFLOW = "version: 1\nworkflows:\n  w:\n    "
MANY = "{" + ", ".join(f"f{n}: /f" for n in range(17)) + "}"

AT_THE_TOP = [
    (
        "hosts: {}",
        "f:3:8 hosts: must not be empty",
    ),
    (
        "hosts: {a b: {url: https://x.example, cloud: aws}}",
        "f:3:9 hosts[\"a b\"]: 'a b' is not a name; allowed: letters, digits, '.', '_', '-', at most 64",
    ),
    (
        "hosts: {aws: {cloud: aws}}",
        "f:3:14 hosts.aws.url: is required",
    ),
    (
        "hosts: {aws: {url: https://x.example, cloud: gcp}}",
        "f:3:46 hosts.aws.cloud: 'gcp' is not known; allowed: aws, azure, onprem",
    ),
    (
        "hosts: {aws: {url: ftp://x.example, cloud: aws}}",
        "f:3:20 hosts.aws.url: 'ftp://x.example' is not a URL; allowed: https://HOST/PATH, or http:// by name",
    ),
    (
        "hosts: {aws: {url: https://u:p@x.example, cloud: aws}}",
        "f:3:20 hosts.aws.url: a URL never holds a user or password; use auth:",
    ),
    (
        "hosts: {aws: {url: 'https://x.example/?a=1', cloud: aws}}",
        "f:3:20 hosts.aws.url: 'https://x.example/?a=1' has a query or fragment; allowed: scheme, host and path",
    ),
    (
        "hosts: {aws: {url: 'https://x.example:99999', cloud: aws}}",
        "f:3:20 hosts.aws.url: not a URL: Port out of range 0-65535",
    ),
    (
        "hosts: {aws: {url: https://x.example, cloud: aws, regoin: eu}}",
        "f:3:51 hosts.aws.regoin: unknown key, did you mean region?; allowed: url, cloud, region, signer, state, queue, blobs",
    ),
    (
        "issuer: gateway",
        "f:3:9 issuer: 'gateway' is not a URL; allowed: https://HOST/PATH, or http:// by name",
    ),
    (
        "domain_key: BUSPASS_DOMAIN_KEY",
        "f:3:13 domain_key: must be {secret: NAME}, the name of a secret in the host's own store; never its value",
    ),
    (
        "domain_key: {secret: sk-proj-abcdef}",
        "f:3:22 domain_key.secret: this looks like the secret itself; name where it lies, such as {secret: OPENAI_API_KEY}",
    ),
    (
        "domain_key: {secret: 'two words'}",
        "f:3:22 domain_key.secret: not a secret's name; allowed: letters, digits and _ / . + = @ -, at most 256",
    ),
    (
        "state: postgres://db",
        "f:3:8 state: 'postgres://' is not known; allowed: sqlite://, memory://, dynamodb://, cosmos://, redis://",
    ),
    (
        "state: sqlite://state.db",
        "f:3:8 state: 'sqlite://state.db' has no path; allowed: sqlite:///RELATIVE, sqlite:////ABSOLUTE",
    ),
    (
        "state: sqlite:///",
        "f:3:8 state: 'sqlite:///' has no path; allowed: sqlite:///RELATIVE, sqlite:////ABSOLUTE",
    ),
    (
        "state: sqlite:///a.db?durability=none",
        "f:3:8 state: 'sqlite:///a.db?durability=none' has an unknown query; allowed: durability=power, durability=process",
    ),
    (
        "blobs: file:///b?x=1",
        "f:3:8 blobs: 'file:///b?x=1' has an unknown query; allowed: none",
    ),
    (
        "signer: vault://x",
        "f:3:9 signer: 'vault://' is not known; allowed: file://, kms://, keyvault://",
    ),
    (
        "identity: [{name: a, issuer: https://i.example, audience: x}]",
        "f:3:12 identity[0]: proves nobody; allowed: claims: for workloads and operators, subject: for subjects",
    ),
    (
        "identity: {name: a}",
        "f:3:11 identity: must be a list",
    ),
    (
        "identity: [{name: a, issuer: https://i.example, audience: '', claims: {agent: azp}}]",
        "f:3:59 identity[0].audience: must not be empty",
    ),
    (
        "providers: {p: {api: gemini, base_url: https://p.example, auth: none}}",
        "f:3:22 providers.p.api: 'gemini' is not known; allowed: openai, azure-openai, anthropic, bedrock",
    ),
    (
        "providers: {p: {api: openai, auth: none}}",
        "f:3:16 providers.p: base_url: is needed for api: openai",
    ),
    (
        "providers: {p: {api: openai, base_url: https://p.example}}",
        "f:3:16 providers.p.auth: is required",
    ),
    (
        "providers: {p: {api: openai, base_url: https://p.example, auth: basic}}",
        "f:3:65 providers.p.auth: 'basic' is not known; allowed: none, bearer, header, oauth2, aws, azure, mtls, txn",
    ),
    (
        "providers: {p: {api: openai, base_url: https://p.example, auth: {bearer: {secret: A}, none: {}}}}",
        "f:3:65 providers.p.auth: exactly one of these is needed; allowed: none, bearer, header, oauth2, aws, azure, mtls, txn",
    ),
    (
        "providers: {p: {api: openai, base_url: https://p.example, auth: {baerer: {secret: A}}}}",
        "f:3:66 providers.p.auth.baerer: unknown key, did you mean bearer?; allowed: none, bearer, header, oauth2, aws, azure, mtls, txn",
    ),
    (
        "providers: {p: {api: openai, base_url: https://p.example, auth: {header: {name: Host, secret: A}}}}",
        "f:3:81 providers.p.auth.header.name: 'Host' is set by the gateway itself",
    ),
    (
        "providers: {p: {api: openai, base_url: https://p.example, auth: {header: {name: 'a b', secret: A}}}}",
        "f:3:81 providers.p.auth.header.name: 'a b' is not a header's name",
    ),
    (
        "providers: {p: {api: openai, base_url: https://p.example, auth: bearer}}",
        "f:3:65 providers.p.auth.bearer.secret: is required",
    ),
    (
        "models: {m: {targets: []}}",
        "f:3:23 models.m.targets: must not be empty",
    ),
    (
        "models: {m: {targets: [{provider: p}]}}",
        "f:3:24 models.m.targets[0].model: is required",
    ),
    (
        "models: {m: {targets: [{provider: p, model: x}], max_output: 0}}",
        "f:3:62 models.m.max_output: is too small; allowed: 1 or more",
    ),
    (
        "models: {m: {targets: [{provider: p, model: x}], retry: {attempts: 11}}}",
        "f:3:68 models.m.retry.attempts: is too large; allowed: at most 10",
    ),
    (
        "models: {m: {targets: [{provider: p, model: x}], timeout: {first_token: 10s, total: 5s}}}",
        "f:3:59 models.m.timeout: first_token is longer than total",
    ),
    (
        "models: {m: {targets: [{provider: p, model: x}], timeout: {total: 10}}}",
        "f:3:67 models.m.timeout.total: 10 is not a duration; allowed: a number with ms, s, m, h or d, such as 30s",
    ),
    (
        "models: {m: {targets: [{provider: p, model: x}], timeout: {total: 0s}}}",
        "f:3:67 models.m.timeout.total: '0s' is no time at all; allowed: more than 0",
    ),
    (
        "models: {m: {targets: [{provider: p, model: x}], strategy: random}}",
        "f:3:60 models.m.strategy: 'random' is not known; allowed: priority, weighted, latency, cost",
    ),
    (
        "prices: {p/m: {input: 1.0000001, output: 1}}",
        'f:3:23 prices["p/m"].input: 1.0000001 has more than six decimals',
    ),
    (
        "prices: {p/m: {input: -1, output: 1}}",
        'f:3:23 prices["p/m"].input: -1 is not a price in USD per million tokens; allowed: 0 to 9007199254',
    ),
    (
        "prices: {p/m: {input: '1', output: 1}}",
        "f:3:23 prices[\"p/m\"].input: '1' is not a price in USD per million tokens; allowed: a number of 0 or more, such as 0.50",
    ),
    (
        "prices: {p/m: {input: 1}}",
        'f:3:15 prices["p/m"].output: is required',
    ),
    (
        "tools: {'a b': {http: {method: GET, url: https://t.example}}}",
        "f:3:9 tools[\"a b\"]: 'a b' is not a tool's name; allowed: letters, digits, '_', '-', at most 64",
    ),
    (
        "tools: {t: {description: x}}",
        "f:3:12 tools.t: exactly one of these is needed; allowed: http, openapi, mcp, sql",
    ),
    (
        "tools: {t: {http: {method: GET, url: https://t.example}, sql: SELECT 1, database: {secret: D}}}",
        "f:3:12 tools.t: exactly one of these is needed; allowed: http, openapi, mcp, sql",
    ),
    (
        "tools: {t: {sql: SELECT 1}}",
        "f:3:12 tools.t: sql: and database: belong together",
    ),
    (
        "tools: {t: {http: {method: get, url: https://t.example}}}",
        "f:3:28 tools.t.http.method: 'get' is not known; allowed: GET, HEAD, POST, PUT, PATCH, DELETE",
    ),
    (
        "tools: {t: {http: {method: GET, url: 'https://{host}.example/x'}}}",
        "f:3:38 tools.t.http.url: 'https://{host}.example/x' has an argument in its host; allowed: in the path only",
    ),
    (
        "tools: {t: {http: {method: GET, url: 'https://t.example/{x'}}}",
        "f:3:38 tools.t.http.url: 'https://t.example/{x' has an unfinished {argument}",
    ),
    (
        "tools: {t: {http: {method: GET, url: 'https://t.example/x?y={y}'}}}",
        "f:3:38 tools.t.http.url: 'https://t.example/x?y={y}' has a query or fragment; allowed: scheme, host and path",
    ),
    (
        "tools: {t: {http: {method: GET, url: https://t.example}, keep: {a: b}}}",
        "f:3:68 tools.t.keep.a: 'b' is not a JSON pointer; allowed: such as /order/id, with ~0 for ~ and ~1 for /",
    ),
    (
        "tools: {t: {http: {method: GET, url: https://t.example}, keep: MANY}}",
        "f:3:64 tools.t.keep: has too many entries; allowed: at most 16",
    ),
    (
        "tools: {t: {http: {method: GET, url: https://t.example}, statuses: [500]}}",
        "f:3:69 tools.t.statuses[0]: is too large; allowed: at most 499",
    ),
    (
        "tools: {t: {http: {method: GET, url: https://t.example}, hosts: []}}",
        "f:3:65 tools.t.hosts: must not be empty",
    ),
    (
        "tools: {t: {http: {method: GET, url: https://t.example}, timeout: 1 minute}}",
        "f:3:67 tools.t.timeout: '1 minute' is not a duration; allowed: a number with ms, s, m, h or d, such as 30s",
    ),
    (
        "tools: {t: {http: {method: GET, url: https://t.example}, rate: 10}}",
        "f:3:64 tools.t.rate: 10 is not a rate; allowed: a number with /s, /m, /h or /d, such as 10/s",
    ),
    (
        "tools: {t: {http: {method: GET, url: https://t.example}, idempotent: on}}",
        "f:3:70 tools.t.idempotent: must be true or false",
    ),
    (
        "tools: {t: {http: {method: GET, url: https://t.example}, input: }}",
        "f:3:65 tools.t.input: is empty; give it a value or remove the key",
    ),
    (
        "tools: [t]",
        "f:3:8 tools: must be a mapping",
    ),
    (
        "pools: {p: {cost: yes}}",
        "f:3:19 pools.p.cost: 'yes' is not money; allowed: USD, alone or with /hour, /day, /week or /month",
    ),
    (
        "pools: {p: {cost: 200/year}}",
        "f:3:19 pools.p.cost: '200/year' is not money; allowed: USD, alone or with /hour, /day, /week or /month",
    ),
    (
        "inspectors: [{name: i, on: [request], timeout: 300ms}]",
        "f:3:14 inspectors[0]: exactly one of these is needed; allowed: webhook, bedrock_guardrail, azure_content_safety",
    ),
    (
        "webhooks: {a: {url: https://x.example, on: [boom]}}",
        "f:3:45 webhooks.a.on[0]: 'boom' is not known; allowed: soft_limit, killed, breaker, approval",
    ),
    (
        "policy: {path: policies, engine: cedar}",
        "f:3:34 policy.engine: 'cedar' is not known; allowed: embedded, opa, wasm",
    ),
    (
        "policy: ",
        "f:3:8 policy: is empty; give it a value or remove the key",
    ),
    (
        "operators: [{identity: entra}]",
        "f:3:13 operators[0].group: is required",
    ),
    (
        "telemetry: {otlp: collector}",
        "f:3:19 telemetry.otlp: 'collector' is not a URL; allowed: https://HOST/PATH, or http:// by name",
    ),
]

IN_A_WORKFLOW = [
    (
        "modles: [x]",
        "f:4:5 workflows.w.modles: unknown key, did you mean models?; allowed: agents, subject, models, tools, budget, pool, token_ttl, enforce, require_thought, loops, logging, replay, personal_data, hosted_tools, data_residency",
    ),
    (
        "models: openai/gpt-5-mini",
        "f:4:13 workflows.w.models: must be a list",
    ),
    (
        "models: ['']",
        "f:4:14 workflows.w.models[0]: must not be empty",
    ),
    (
        "agents: ",
        "f:4:12 workflows.w.agents: is empty; give it a value or remove the key",
    ),
    (
        "agents: [{identity: a}]",
        "f:4:14 workflows.w.agents[0].agent: is required",
    ),
    (
        "subject: {types: []}",
        "f:4:22 workflows.w.subject.types: must not be empty",
    ),
    (
        "subject: {types: [customer], proof: trust}",
        "f:4:41 workflows.w.subject.proof: 'trust' is not known; allowed: token, asserted",
    ),
    (
        "subject: ",
        "f:4:13 workflows.w.subject: is empty; give it a value or remove the key",
    ),
    (
        "tools: [{after: [a]}]",
        "f:4:13 workflows.w.tools[0].tool: is required",
    ),
    (
        "tools: [{tool: a, max_calls: 0}]",
        "f:4:34 workflows.w.tools[0].max_calls: is too small; allowed: 1 or more",
    ),
    (
        "tools: [{tool: a, after: a}]",
        "f:4:30 workflows.w.tools[0].after: must be a list",
    ),
    (
        "tools: [{tool: a, after: [{tool: b, within: 10}]}]",
        "f:4:49 workflows.w.tools[0].after[0].within: 10 is not a duration; allowed: a number with ms, s, m, h or d, such as 30s",
    ),
    (
        "tools: {a: {}}",
        "f:4:12 workflows.w.tools: must be a list",
    ),
    (
        "budget: ",
        "f:4:12 workflows.w.budget: is empty; give it a value or remove the key",
    ),
    (
        "budget: {cost: 0.0000001}",
        "f:4:20 workflows.w.budget.cost: 0.0000001 has more than six decimals",
    ),
    (
        "budget: {cost: $1}",
        "f:4:20 workflows.w.budget.cost: '$1' is not an amount in USD; allowed: a number of 0 or more, such as 0.50",
    ),
    (
        "budget: {cost: -0.5}",
        "f:4:20 workflows.w.budget.cost: -0.5 is not an amount in USD; allowed: 0 to 9007199254",
    ),
    (
        "budget: {cost: true}",
        "f:4:20 workflows.w.budget.cost: true is not an amount in USD; allowed: a number of 0 or more, such as 0.50",
    ),
    (
        "budget: {tokens: 1.5}",
        "f:4:22 workflows.w.budget.tokens: must be a whole number",
    ),
    (
        "budget: {tokens: -1}",
        "f:4:22 workflows.w.budget.tokens: is too small; allowed: 0 or more",
    ),
    (
        "budget: {tokens: 9007199254740991}",
        "f:4:22 workflows.w.budget.tokens: is too large; allowed: less than 9007199254740991",
    ),
    (
        "budget: {calls: many}",
        "f:4:21 workflows.w.budget.calls: must be a whole number",
    ),
    (
        "budget: {wall: 10}",
        "f:4:20 workflows.w.budget.wall: 10 is not a duration; allowed: a number with ms, s, m, h or d, such as 30s",
    ),
    (
        "budget: {depth: 17}",
        "f:4:21 workflows.w.budget.depth: is too large; allowed: at most 16",
    ),
    (
        "budget: {wait: 61s}",
        "f:4:20 workflows.w.budget.wait: '61s' is too long; allowed: 0s to 60s",
    ),
    (
        "budget: {soft: 80}",
        "f:4:20 workflows.w.budget.soft: 80 is not a percentage; allowed: 0% to 100%, such as 80%",
    ),
    (
        "budget: {soft: 101%}",
        "f:4:20 workflows.w.budget.soft: '101%' is not a percentage; allowed: 0% to 100%, such as 80%",
    ),
    (
        "budget: {moeny: 1}",
        "f:4:14 workflows.w.budget.moeny: unknown key; allowed: tokens, cost, calls, model_calls, tool_calls, wall, depth, wait, soft, wrap_up",
    ),
    (
        "enforce: yes",
        "f:4:14 workflows.w.enforce: 'yes' is not known; allowed: on, observe",
    ),
    (
        "require_thought: yes",
        "f:4:22 workflows.w.require_thought: must be true or false",
    ),
    (
        "token_ttl: 20y",
        "f:4:16 workflows.w.token_ttl: '20y' is not a duration; allowed: a number with ms, s, m, h or d, such as 30s",
    ),
    (
        "token_ttl: 4000d",
        "f:4:16 workflows.w.token_ttl: '4000d' is longer than ten years",
    ),
    (
        "loops: {action: warn}",
        "f:4:21 workflows.w.loops.action: 'warn' is not known; allowed: refuse, kill",
    ),
    (
        "logging: {payloads: some}",
        "f:4:25 workflows.w.logging.payloads: 'some' is not known; allowed: none, metadata, redacted, full",
    ),
    (
        "replay: on",
        "f:4:13 workflows.w.replay: 'on' is not known; allowed: off, or {ttl: 24h}",
    ),
    (
        "personal_data: {block: [ssn]}",
        "f:4:29 workflows.w.personal_data.block[0]: 'ssn' is not known; allowed: credit_card, email, iban, national_id, phone, ip_address",
    ),
]


def problems(text):
    with pytest.raises(ConfigError) as caught:
        validate(parse(text.encode(), "f"))
    return list(caught.value.problems)


@pytest.mark.parametrize(("snippet", "line"), AT_THE_TOP, ids=[line for _, line in AT_THE_TOP])
def test_a_fault_at_the_top_is_told_in_one_line(snippet, line):
    assert problems(f"{TOP}{snippet.replace('MANY', MANY)}\n") == [line]


@pytest.mark.parametrize(("snippet", "line"), IN_A_WORKFLOW, ids=[line for _, line in IN_A_WORKFLOW])
def test_a_fault_in_a_workflow_is_told_in_one_line(snippet, line):
    assert problems(f"{WORKFLOW}{snippet}\n") == [line]


def test_everything_wrong_is_told_at_once_in_the_order_of_the_file():
    text = "versoin: 1\nworkflows:\n  w: {budget: {cost: free}, modles: [x]}\nissuer: here\n"
    assert [line.split(": ")[0] for line in problems(text)] == [
        "f:1:1 version",
        "f:1:1 versoin",
        "f:3:22 workflows.w.budget.cost",
        "f:3:29 workflows.w.modles",
        "f:4:9 issuer",
    ]


def test_a_document_that_is_no_mapping_is_told_so():
    assert problems("[1]\n") == ["f:1:1 (document): must be a mapping"]


def test_a_version_of_another_kind_is_refused():
    for version in ("2", "true", "'1'", "1.0", "[1]"):
        assert problems(f"version: {version}\nworkflows: {{w: {{}}}}\n") == [
            "f:1:10 version: not a version of this file; allowed: 1"
        ]


def test_a_secret_put_in_by_mistake_is_never_repeated():
    for text in ("domain_key: {secret: sk-proj-4711}", "state: redis://:pw-4711@host", "issuer: https://u:4711@h"):
        assert "4711" not in "".join(problems(f"{TOP}{text}\n"))
