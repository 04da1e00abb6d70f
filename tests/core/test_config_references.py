"""What names refer to, and whether the parts fit each other, is judged before anything starts."""

import pytest

from buspass.config.build import Surroundings
from buspass.config.build import compile as build
from buspass.config.document import parse
from buspass.errors import ConfigError

SHOP = """version: 1
identity:
  - {name: entra, issuer: https://i.example/v2.0, audience: buspass, claims: {agent: azp}}
  - {name: shop, issuer: https://s.example, audience: buspass, subject: {type: customer, id: sub}}
providers:
  p: {api: openai, base_url: https://p.example/v1, auth: none}
prices: {p/m: {input: 1, output: 2}}
tools:
  find:
    http: {method: GET, url: 'https://t.example/orders/{id}'}
    input: {type: object, properties: {id: {type: string}}, required: [id]}
    keep: {order: /order}
  pay:
    http: {method: POST, url: https://t.example/pay}
    input: {type: object, properties: {order: {type: string}}, required: [order]}
"""
BARE = "version: 1\nworkflows: {w: {}}\n"

IN_THE_SHOP = [
    (
        "models: {a: {targets: [{provider: q, model: m}]}}\nworkflows: {w: {models: [a]}}",
        "f:16:35 models.a.targets[0].provider: no provider 'q'; allowed: p",
    ),
    (
        "models: {a: {targets: [{provider: p, model: m}, {provider: p, model: m}]}}\nworkflows: {w: {models: [a]}}",
        "f:16:49 models.a.targets[1]: 'p/m' is named twice",
    ),
    (
        "models: {a: {strategy: weighted, targets: [{provider: p, model: m, weight: 0}]}}\nworkflows: {w: {models: [a]}}",
        "f:16:43 models.a.targets: every weight is 0; allowed: at least one above",
    ),
    (
        "workflows: {w: {models: [classify]}}",
        "f:16:26 workflows.w.models[0]: no model 'classify'; allowed: PROVIDER/MODEL",
    ),
    (
        "workflows: {w: {models: [gpt-5-mini]}}",
        "f:16:26 workflows.w.models[0]: no model 'gpt-5-mini', did you mean openai/gpt-5-mini?; allowed: PROVIDER/MODEL, openai/gpt-5-mini",
    ),
    (
        "workflows: {w: {models: [gemini/flash]}}",
        "f:16:26 workflows.w.models[0]: no provider 'gemini'; allowed: anthropic, openai, p",
    ),
    (
        "workflows: {w: {models: [bedrock/nova]}}",
        "f:16:26 workflows.w.models[0]: not available yet: provider 'bedrock'; allowed: anthropic, openai, p",
    ),
    (
        "workflows: {w: {models: [p/m, p/m]}}",
        "f:16:31 workflows.w.models[1]: 'p/m' is named twice",
    ),
    (
        "models: {planner: {targets: [{provider: p, model: m}]}}\nworkflows: {w: {models: [planer]}}",
        "f:17:26 workflows.w.models[0]: no model 'planer', did you mean planner?; allowed: PROVIDER/MODEL, planner",
    ),
    (
        "workflows: {w: {models: [opnai/gpt-5-mini]}}",
        "f:16:26 workflows.w.models[0]: no provider 'opnai', did you mean openai?; allowed: anthropic, openai, p",
    ),
    (
        "workflows: {w: {models: [openai/gpt-5-mni], budget: {cost: 1}}}",
        "f:16:26 workflows.w.models[0]: no price for 'openai/gpt-5-mni', did you mean openai/gpt-5-mini?; see 'buspass models', or add prices:",
    ),
    (
        "workflows: {w: {models: [p/m, openai/gpt-9], budget: {cost: 1}}}",
        "f:16:31 workflows.w.models[1]: no price for 'openai/gpt-9'; see 'buspass models', or add prices:",
    ),
    (
        "models: {a: {targets: [{provider: p, model: m}, {provider: p, model: n}]}}\nworkflows: {w: {models: [a], budget: {cost: 1}}}",
        "f:17:26 workflows.w.models[0]: no price for 'p/n'; see 'buspass models', or add prices:",
    ),
    (
        "workflows: {w: {agents: [{identity: okta, agent: x}]}}",
        "f:16:37 workflows.w.agents[0].identity: no identity 'okta'; allowed: entra",
    ),
    (
        "workflows: {w: {agents: [{identity: other, agent: x}]}}\npeers: {far: {url: https://f.example, issuer: https://f.example}}",
        "f:16:37 workflows.w.agents[0].identity: no identity 'other'; allowed: entra, far",
    ),
    (
        "workflows: {w: {models: [p/m]}}\npeers: {entra: {url: https://f.example, issuer: https://f.example}}",
        "f:17:9 peers.entra: 'entra' is an identity's own name; allowed: another name",
    ),
    (
        "workflows: {w: {models: [p/m]}}\npeers: {local: {url: https://f.example, issuer: https://f.example}}",
        "f:17:9 peers.local: 'local' is the local issuer's own name; allowed: another name",
    ),
    (
        "workflows: {w: {models: [p/m]}}\npeers: {a: {url: https://a.example, issuer: https://f.example}, b: {url: https://b.example, issuer: https://f.example}}",
        "f:17:101 peers.b.issuer: is the peer a's issuer; allowed: the other trust domain's",
    ),
    (
        "workflows: {w: {agents: [{identity: shop, agent: x}]}}",
        "f:16:37 workflows.w.agents[0].identity: identity 'shop' maps no claim to agent; add claims: {agent: …} to it",
    ),
    (
        "workflows: {w: {agents: [{identity: local, agent: x}]}}",
        "f:16:37 workflows.w.agents[0].identity: no identity 'local'; allowed: entra",
    ),
    (
        "workflows: {w: {subject: {types: [rep]}}}",
        "f:16:35 workflows.w.subject.types[0]: no identity proves a 'rep'; allowed: customer",
    ),
    (
        "workflows: {w: {tools: [refund]}}",
        "f:16:25 workflows.w.tools[0]: no tool 'refund'; allowed: find, pay",
    ),
    (
        "workflows: {w: {tools: [{tool: refund}]}}",
        "f:16:32 workflows.w.tools[0].tool: no tool 'refund'; allowed: find, pay",
    ),
    (
        "workflows: {w: {tools: [find, find]}}",
        "f:16:31 workflows.w.tools[1]: 'find' is granted twice",
    ),
    (
        "workflows: {w: {tools: [{tool: pay, after: [find]}]}}",
        "f:16:45 workflows.w.tools[0].after[0]: 'find' is not granted in this workflow; allowed: pay",
    ),
    (
        "workflows: {w: {tools: [find, {tool: pay, after: [{tool: fnid}]}]}}",
        "f:16:58 workflows.w.tools[1].after[0].tool: 'fnid' is not granted in this workflow; allowed: find, pay",
    ),
    (
        "workflows: {w: {tools: [{tool: pay, after: [pay]}]}}",
        "f:16:44 workflows.w.tools[0].after: can never be called: pay after pay",
    ),
    (
        "workflows: {w: {tools: [{tool: find, after: [pay]}, {tool: pay, after: [find]}]}}",
        "f:16:45 workflows.w.tools[0].after: can never be called: find after pay after find",
    ),
    (
        "workflows: {w: {tools: [{tool: find, where: {customer: x}}]}}",
        "f:16:46 workflows.w.tools[0].where.customer: find has no argument 'customer'; allowed: id",
    ),
    (
        "workflows: {w: {tools: [{tool: find, where: {id: $subject.id}}]}}",
        "f:16:50 workflows.w.tools[0].where.id: $subject.id needs a subject; add subject: {types: […]} to the workflow",
    ),
    (
        "workflows: {w: {tools: [{tool: find, where: {id: $subject.type}}]}}",
        "f:16:50 workflows.w.tools[0].where.id: '$subject.type' is not known; allowed: $subject.id, or a literal",
    ),
    (
        "workflows: {w: {tools: [{tool: find, where: {id: $arguments.id}}]}}",
        "f:16:50 workflows.w.tools[0].where.id: '$arguments.id' is not known; allowed: $subject.id, or a literal",
    ),
    (
        "workflows: {w: {tools: [{tool: find, where: {id: [a]}}]}}",
        "f:16:50 workflows.w.tools[0].where.id: must be text, a number, true or false, or $subject.id",
    ),
    (
        "workflows: {w: {tools: [find, {tool: pay, after: [{tool: find, where: {total: 1}}]}]}}",
        "f:16:72 workflows.w.tools[1].after[0].where.total: find keeps no fact 'total'; allowed: order",
    ),
    (
        "workflows: {w: {tools: [find, {tool: pay, after: [{tool: find, where: {order: $arguments.id}}]}]}}",
        "f:16:79 workflows.w.tools[1].after[0].where.order: the tool has no argument 'id'; allowed: order",
    ),
    (
        "workflows: {w: {tools: [find, {tool: pay, after: [{tool: find, where: {order: $order}}]}]}}",
        "f:16:79 workflows.w.tools[1].after[0].where.order: '$order' is not known; allowed: $subject.id, $arguments.NAME, or a literal",
    ),
    (
        "workflows: {w: {tools: [find, {tool: pay, after: [{tool: find, where: {order: {a: 1}}}]}]}}",
        "f:16:79 workflows.w.tools[1].after[0].where.order: must be text, a number, true or false, or $subject.id",
    ),
    (
        "workflows: {w: {}}\noperators: [{identity: okta, group: g}]",
        "f:17:24 operators[0].identity: no identity 'okta'; allowed: entra, shop",
    ),
    (
        "workflows: {w: {}}\npolicy: {path: nowhere}",
        "f:17:16 policy.path: FOLDER/nowhere is not a folder; allowed: a folder of Rego modules",
    ),
    (
        "workflows: {w: {}}\npolicy: {path: empty}",
        "f:17:16 policy.path: FOLDER/empty holds no Rego module; remove policy: if no module is meant",
    ),
    (
        "workflows: {w: {}}\npolicy: {path: broken}",
        "f:17:16 policy.path: a.rego is not UTF-8",
    ),
    (
        "workflows: {w: {}}\nhosts: {a: {url: https://a.example, cloud: aws}, b: {url: https://b.example, cloud: azure}}",
        "f:1:1 issuer: is required with several hosts; allowed: a URL that names their trust domain",
    ),
    (
        "workflows: {w: {}}\nmodels: {a: {targets: [{provider: p, model: m, weight: 1}]}}",
        "f:17:56 models.a.targets[0].weight: shares calls only under strategy: weighted",
    ),
]

ALONE = [
    (
        "identity: [{name: a, issuer: https://i, audience: x, claims: {agent: azp}}, {name: a, issuer: https://j, audience: x, claims: {agent: azp}}]",
        "f:3:84 identity[1].name: 'a' is named twice",
    ),
    (
        "identity: [{name: a, issuer: https://i, audience: x, claims: {agent: azp}}, {name: b, issuer: https://i, audience: x, claims: {agent: azp}}]",
        "f:3:95 identity[1].issuer: the same issuer and audience stand in an entry before",
    ),
    (
        "identity: [{name: local, issuer: https://i, audience: x, claims: {agent: azp}}]",
        "f:3:19 identity[0].name: 'local' is the local issuer's own name; allowed: another name",
    ),
    (
        "prices: {gpt-5: {input: 1, output: 1}}",
        "f:3:10 prices.gpt-5: 'gpt-5' is not a target; allowed: PROVIDER/MODEL",
    ),
    (
        "providers: {p: {api: openai, base_url: https://p, auth: {txn: {audience: x}}}}",
        "f:3:63 providers.p.auth.txn: is for tools; allowed: none, bearer, header",
    ),
    (
        "tools: {t: {http: {method: GET, url: https://t}, hosts: [aws]}}",
        "f:3:58 tools.t.hosts[0]: no host 'aws'; allowed: onprem",
    ),
    (
        "tools: {t: {http: {method: GET, url: 'https://t/{id}'}}}",
        "f:3:38 tools.t.http.url: {id} is no property of input; allowed: none is defined",
    ),
    (
        "tools: {t: {http: {method: GET, url: 'https://t/{id}'}, input: {type: object, properties: {id: {type: string}}}}}",
        "f:3:38 tools.t.http.url: {id} must be in input's required:",
    ),
    (
        "tools: {t: {http: {method: GET, url: https://t}, input: {type: array}}}",
        "f:3:57 tools.t.input: arguments are an object; allowed: a schema with type: object",
    ),
    (
        "tools: {t: {http: {method: GET, url: https://t}, input: {type: object, properties: {a: {type: strng}}}}}",
        "f:3:95 tools.t.input.properties.a.type: not a JSON Schema: \"strng\" is not valid under any of the schemas listed in the 'anyOf' keyword",
    ),
    (
        "tools: {t: {http: {method: GET, url: https://t}, output: {pattern: '('}}}",
        'f:3:68 tools.t.output.pattern: not a JSON Schema: "(" is not a "regex"',
    ),
    (
        "tools: {t: {http: {method: GET, url: https://t}, output: {$ref: https://schemas.example/order.json}}}",
        "f:3:58 tools.t.output: not a JSON Schema: a $ref leads out of it; allowed: #/…",
    ),
    (
        "tools: {t: {http: {method: GET, url: https://t}, output: {$ref: 'file:///etc/passwd'}}}",
        "f:3:58 tools.t.output: not a JSON Schema: a $ref leads out of it; allowed: #/…",
    ),
    (
        "tools: {t: {http: {method: GET, url: https://t}, output: {$ref: '#/$defs/none'}}}",
        "f:3:58 tools.t.output: not a JSON Schema: Pointer '/$defs/none' does not exist",
    ),
    (
        "tools: {t: {http: {method: GET, url: https://t}, output: {$schema: 'http://json-schema.org/draft-07/schema#'}}}",
        "f:3:68 tools.t.output.$schema: not the dialect in use; allowed: https://json-schema.org/draft/2020-12/schema",
    ),
    (
        "providers: {p: {api: azure-openai, base_url: https://p, auth: none}}",
        "f:3:22 providers.p.api: not available yet: this wire format; allowed: openai, anthropic",
    ),
    (
        "tools: {t: {mcp: https://m}}",
        "f:3:18 tools.t.mcp: not available yet: tools of an MCP server",
    ),
]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.rego").write_bytes(b"\xff")
    return tmp_path


def problems(text, folder, **surroundings):
    around = {"folder": folder, "environ": {}, **surroundings}
    with pytest.raises(ConfigError) as caught:
        build(parse(text.encode(), "f"), Surroundings(**around))
    return [line.replace(str(folder), "FOLDER") for line in caught.value.problems]


@pytest.mark.parametrize(("snippet", "line"), IN_THE_SHOP, ids=[line for _, line in IN_THE_SHOP])
def test_a_part_that_does_not_fit_is_told_in_one_line(snippet, line, folder):
    assert problems(f"{SHOP}{snippet}\n", folder) == [line]


@pytest.mark.parametrize(("snippet", "line"), ALONE, ids=[line for _, line in ALONE])
def test_a_part_that_is_wrong_by_itself_is_told_in_one_line(snippet, line, folder):
    assert problems(f"{BARE}{snippet}\n", folder) == [line]


@pytest.mark.parametrize("bind", ["0.0.0.0", "::", "10.0.0.1", "gateway.corp"])
def test_where_others_can_reach_it_identity_and_domain_key_are_required(bind, folder):
    hosts = "hosts: {a: {url: https://a.example, cloud: aws}}\n"
    assert problems(BARE + hosts, folder, bind=bind) == [
        f"f:1:1 domain_key: is required where others can reach the gateway (bind {bind})",
        f"f:1:1 identity: is required where others can reach the gateway (bind {bind})",
    ]


def test_an_address_that_agents_cannot_call_is_no_host(folder):
    assert problems(BARE, folder, bind="0.0.0.0")[1] == (
        "f:1:1 hosts: or BUSPASS_URL is required: agents cannot call 0.0.0.0"
    )


def test_a_host_that_the_environment_names_must_be_in_the_file(folder):
    text = f"{BARE}hosts: {{aws: {{url: https://a.example, cloud: aws}}}}\n"
    assert problems(text, folder, environ={"BUSPASS_HOST": "asw"}) == [
        "f:3:8 hosts: BUSPASS_HOST is 'asw'; allowed: aws"
    ]


def test_a_url_that_the_environment_names_must_be_one(folder):
    assert problems(BARE, folder, environ={"BUSPASS_URL": "gateway"}) == [
        "f:1:1 hosts: BUSPASS_URL: 'gateway' is not a URL; allowed: https://HOST/PATH, or http:// by name"
    ]
