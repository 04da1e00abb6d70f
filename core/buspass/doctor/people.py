"""Checks of what a host believes and who may tell it so: settings, secrets, signer, policy, issuers, operators."""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator
from typing import Any, Final, get_args

from msgspec.structs import replace

from buspass.config.advice import advice
from buspass.config.settings import Auth, Settings
from buspass.doctor.finding import Finding, good, refused, warned
from buspass.doctor.patient import Patient
from buspass.errors import Problem
from buspass.identity.issuer_keys import IssuerKeys
from buspass.identity.oidc import OidcVerifier
from buspass.identity.proving import public_key
from buspass.model import Principal
from buspass.policy import document
from buspass.policy.decide import Policy, Question
from buspass.ports.secrets import SecretMissing
from buspass.ports.signer import SignerUnavailable
from buspass.tools.auth import headers

_PROBE: Final = b"buspass doctor"


async def settings(patient: Patient) -> AsyncIterator[Finding]:
    """What `buspass check` warns of, apart from times."""
    for line in advice(patient.settings):
        if ".timeout" not in line.partition(": ")[0]:
            about, _, what = line.partition(": ")
            yield warned("settings", about, what, "docs/configuration.md says what this key does")


async def limits(patient: Patient) -> AsyncIterator[Finding]:
    """Times that end at this host before their time."""
    mine = f"host '{patient.host.name}'"
    lines = [line for line in advice(patient.settings) if ".timeout" in line.partition(": ")[0] and mine in line]
    for line in lines:
        about, _, what = line.partition(": ")
        remedy = "give it a time that the host can keep, or serve it on another host (docs/hosts.md)"
        yield warned("limits", about, what, remedy)
    if not lines:
        yield good("limits", patient.host.name, f"{patient.host.cloud} keeps every time-out")


async def secrets(patient: Patient) -> AsyncIterator[Finding]:
    """Look every reference up, and see that it may stand in a header. No value is kept or shown."""
    store = patient.secrets
    assert store is not None
    for name, (auth, users) in _references(patient.settings).items():
        used = ", ".join(users)
        try:
            headers(auth, secret=await store.get(name))
        except SecretMissing as error:
            remedy = "set the variable, or put the secret where BUSPASS_SECRETS says; then start the host again"
            yield refused("secrets", name, f"{error} (used by {used})", remedy)
        except Problem as problem:
            yield refused("secrets", name, f"{problem.detail} (used by {used})", "store the key alone, without quotes")
        else:
            yield good("secrets", name, f"resolves (used by {used})")


def _references(settings: Settings) -> dict[str, tuple[Auth, list[str]]]:
    found: dict[str, tuple[Auth, list[str]]] = {}
    named = [(f"providers.{name}", each.auth) for name, each in settings.providers.items()]
    named += [(f"tools.{name}", each.auth) for name, each in settings.tools.items()]
    for where, auth in named:
        if auth.secret:
            found.setdefault(auth.secret, (auth, []))[1].append(where)
    return found


async def signer(patient: Patient) -> AsyncIterator[Finding]:
    """Sign, and prove the signature with the public key that is published."""
    key = patient.signer
    assert key is not None
    about = patient.host.signer.partition(":")[0]
    try:
        signature = await key.sign(_PROBE)
        proven = public_key(key.jwk, key.algorithm).proves(_PROBE, signature)
    except (SignerUnavailable, ValueError) as error:
        yield refused("signer", about, f"it does not sign: {error}", "see that this host may use the key, to sign")
        return
    if proven:
        yield good("signer", about, f"signs as {key.jwk['kid']}")
    else:
        what = "what it signs is not proven by its public key"
        yield refused("signer", about, what, "the key pair does not fit: give the host another key")


async def policy(patient: Patient) -> AsyncIterator[Finding]:
    """Lint and compile the modules, and have each question answered for a made-up task."""
    modules = patient.settings.policy
    if not modules:
        yield good("policy", "policy", "no module is configured")
        return
    from buspass.policy.engines import engine  # noqa: PLC0415 - only where a module exists
    from buspass.policy.lint import lint  # noqa: PLC0415

    faults = lint(modules)
    for fault in faults:
        yield refused("policy", ", ".join(modules), fault, "mend the module: the host does not start with it")
    if faults:
        return
    opa = patient.settings.opa
    decider = Policy(engine(modules, opa, patient.outbound, patient.clock), modules)
    if opa and (answers := await asked(decider)).status != "ok":
        yield replace(answers, about=opa)
        return
    for question in get_args(Question.__value__):
        if not decider.asks(question):
            continue
        try:
            await decider.ask(question, _sample(patient, question))
        except Problem as problem:
            remedy = "the module must define deny as a set of reasons (deny contains R if …) for every input"
            yield refused("policy", f"data.buspass.{question}", problem.detail, remedy)
        else:
            yield good("policy", f"data.buspass.{question}", f"decides at {opa}" if opa else "decides")


async def asked(policy: Policy) -> Finding:
    """The cheap check: can policy be asked, and has its server the modules of this configuration."""
    try:
        await policy.ready()
    except Problem as problem:
        remedy = "see that OPA runs where policy.engine names it, with the folder of policy.path and nothing else in \
its packages (opa run --server --ignore '*_test.rego' FOLDER); docs/policy.md"
        return refused("policy", "", problem.detail, remedy)
    return good("policy", "", "ok")


def _sample(patient: Patient, question: Question) -> dict[str, Any]:
    """A question as it could be asked, about a task of the first workflow that there is."""
    now = patient.clock.now()
    task = document.task(
        id="t_doctor",
        workflow=next(iter(patient.settings.workflows), "doctor"),
        status="open",
        metadata={},
        started_at=now,
        depth=0,
        principal=Principal(identity="doctor", issuer=patient.settings.issuer, agent="doctor", claims={}),
        subject=None,
    )
    if question != "call":
        return document.start_input(now=now, host=patient.host, task=task)
    call = document.inference(model="doctor", stream=False, tools=(), size=0, targets=())
    return document.call_input(now=now, host=patient.host, task=task, call=call, tools={}, models={})


async def identity(patient: Patient) -> AsyncIterator[Finding]:
    """Read each issuer's discovery document and keys as a token's verification does."""
    if not patient.settings.identity:
        yield good("identity", "local", "this loopback gateway vouches for its own workloads")
    ours = [each.issuer for each in patient.settings.identity.values()]
    for issuer in dict.fromkeys([*ours, *(peer.issuer for peer in patient.settings.peers.values())]):
        try:
            found = await IssuerKeys(issuer, patient.outbound, patient.clock).all()
        except Problem as problem:
            yield refused("identity", issuer, problem.detail, _issuer_remedy(problem.detail))
            continue
        if found:
            yield good("identity", issuer, f"{len(found)} usable key{'s' if len(found) > 1 else ''}")
        else:
            what = "its key set holds no RSA or P-256 key for signatures"
            yield refused("identity", issuer, what, "see what its jwks_uri answers; RS256 and ES256 are accepted")


def _issuer_remedy(detail: str) -> str:
    if "another issuer" in detail:
        return "write the issuer in buspass.yaml exactly as the discovery document has it, to the last slash"
    if "jwks_uri" in detail:
        return "the issuer must publish its keys over https"
    return "see that the URL is the issuer's, and that DNS, the firewall and TLS let this host reach it"


async def operator(patient: Patient) -> AsyncIterator[Finding]:
    """Prove BUSPASS_TOKEN where it is set; else say whether anybody may operate this host at all."""
    rules, token = patient.settings.operators, patient.environ.get("BUSPASS_TOKEN", "")
    if not token:
        yield _operators(patient)
        return
    if patient.operator_key and hmac.compare_digest(token.encode(), patient.operator_key.encode()):
        yield good("operator", "BUSPASS_TOKEN", "is this host's operator key")
        return
    try:
        verifier = OidcVerifier(patient.settings.identity, patient.outbound, patient.clock)
        who = await verifier.operator(token, rules)
    except Problem as problem:
        remedy = "get a new token from the issuer that `operators` names, or unset BUSPASS_TOKEN"
        yield refused("operator", "BUSPASS_TOKEN", problem.detail, remedy)
    else:
        yield good("operator", "BUSPASS_TOKEN", f"proves {who.agent}")


def _operators(patient: Patient) -> Finding:
    if patient.settings.operators or patient.operator_key:
        return good("operator", "operators", "somebody may stop and kill")
    what = "nobody is an operator: nobody could stop a workflow or kill a task"
    return warned("operator", "operators", what, "add operators: with an identity and a group")
