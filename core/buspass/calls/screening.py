"""What one call's inspection comes to: which classes may pass where, and the texts as each side is to see them.

Owns plans (request, answer, arguments, result): what the workflow's rules and policy come to together; and when the
task's placeholders are needed. Refuses to know how anything is found or replaced: that is `mediation`; and how a stream
is framed: that is `screened_stream`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from msgspec.structs import replace

from buspass.calls.directions import ANSWERED, from_model, from_tool, stricter, towards_model, towards_tool
from buspass.calls.enforcement import ENFORCED, Enforcing
from buspass.calls.house import House
from buspass.calls.messages import identified, opaque
from buspass.calls.placeholder_table import PlaceholderTable, opened
from buspass.config.settings import PersonalData, Tool
from buspass.errors import Problem
from buspass.mediation.arguments import restore_arguments
from buspass.mediation.classes import CLASSES
from buspass.mediation.inspect import Finding
from buspass.mediation.rewriting import Action, ContentBlocked, Plan, mentioned, ordered, rewrite, untouched
from buspass.model import Answer, Ask, Offer
from buspass.ports.state import Value
from buspass.tasks import Task

GROWTH: Final = 24
"""Bytes by which one replaced value can grow at most: the longest placeholder has 22, a number gets two quotes."""
ROWS: Final = 64
"""Findings that a record lists."""
EVERY: Final = tuple(CLASSES)
SECRETS: Final = ("secret",)
NOTHING: Final[Mapping[str, Action]] = MappingProxyType({})
REDACTED: Final = Plan(actions=dict.fromkeys(CLASSES, "mask"))


class Screening:
    """One call's. `meet` before anything else; `keep` before a placeholder made here leaves the host."""

    findings: tuple[Finding, ...]
    _added: Mapping[str, Action]
    """What policy adds."""

    def __init__(self, house: House, rules: PersonalData | None, enforcement: Enforcing = ENFORCED) -> None:
        self._house = house
        self._enforcement = enforcement
        self._rules = rules
        # set here and not by the class: what Python reads of an instance it finds at once
        self.findings, self._added = (), NOTHING
        self._task: Task | None = None
        self._made: PlaceholderTable | None = None
        self.ruled = rules is not None
        """Whether the workflow has rules for personal data: without, only secrets are looked for."""

    def meet(self, task: Task) -> None:
        """Know whose call it is. Raises Problem task_not_open where the key that placeholders need was erased."""
        self._task = task
        if self.ruled or self._added:
            if self._made is not None:
                self._made.meet(task)
            else:
                opened(self._house, task)

    @property
    def _table(self) -> PlaceholderTable:
        """The task's placeholders: made for the calls in which something may stand, which are few."""
        if self._made is None:
            self._made = PlaceholderTable(self._house, shared=self.ruled)
            if self._task is not None and (self.ruled or self._added):
                self._made.meet(self._task)
        return self._made

    @property
    def wanting(self) -> bool:
        """Whether the task's placeholders must be read, and what was looked into looked into again."""
        return self._made is not None and self._made.wanting

    @property
    def unread(self) -> bool:
        """Whether the task may have placeholders that were not read."""
        return self.ruled and (self._made is None or self._made.unread)

    @property
    def unkept(self) -> bool:
        """Whether `keep` may have anything to do."""
        return self._made is not None

    def plain(self, value: Any) -> bool:
        """Whether nothing of any class stands in a JSON value, and no placeholder: it may pass as it is, anywhere."""
        return untouched(value, self._classes())

    async def read(self) -> None:
        """Read the task's placeholders, where the workflow has rules. Raises Problem state_unavailable, internal."""
        await self._table.read()

    async def prepare(self) -> None:
        """Do so where `wanting` says it, before all is looked into again."""
        await self._table.prepare()

    async def keep(self) -> None:
        """Add what was made to the task's table. Raises Problem state_unavailable."""
        if self._made is not None:
            await self._made.keep()

    def oblige(self, obligations: Mapping[str, Any]) -> bool:
        """Take policy's `placeholder` and `mask`. True where they add anything. Raises Problem policy_unavailable."""
        before, added = self._added, dict(self._added)
        for action in ("placeholder", "mask"):
            for class_ in obligations.get(action, ()):
                if class_ not in CLASSES:
                    raise Problem("policy_unavailable", f"policy names a class that does not exist: {class_[:32]!r}")
                added[class_] = stricter(action, added.get(class_, "allow"))
        self._added = added
        if "placeholder" in self._added.values() and self._task is not None:
            self._table.meet(self._task)
        return added != before

    # ── towards a model ─────────────────────────────────────────────────────────────────────────────────────────

    def request(self, ask: Ask) -> Ask:
        """The ask as the provider may see it; `findings` are then what stands in it. Raises Problem content_blocked.

        Its size is an upper bound of what was said and of what is sent. Left alone are pictures, and what a provider
        signed or sealed. The id of a tool call in which something stands becomes another, the same wherever it stands.
        """
        if self.plain(ask.payload):
            self.findings = ()
            return ask
        self._table.mentioned = mentioned(ask.payload)
        actions = self._strict(towards_model(self._rules))
        plan = replace(self._plan(actions), opaque=frozenset(opaque(ask)))
        payload, self.findings = _rewrite(ask.payload, plan, looked=True)
        self._observe(self.findings, actions, "to a model")
        if payload == ask.payload:
            return ask
        payload = {**payload, "messages": [identified(message) for message in payload["messages"]]}
        grown = GROWTH * sum(finding.count for finding in self.findings)
        return replace(ask, payload=payload, input_bytes=ask.input_bytes + grown)

    def answer(self, answer: Answer, *, streamed: bool = False) -> Answer:
        """The answer as the agent may see it: the licences in it are for what the agent sees."""
        if self.silent(answer):
            return answer
        plan = self.answer_plan()
        text, found = rewrite(answer.text, plan, "answer.text")
        offers, rows = [], list(found)
        for index, offer in enumerate(answer.offers):
            seen, more = self.arguments_text(offer.arguments_text, f"answer.tool_calls[{index}]", streamed=streamed)
            offers.append(Offer(id=offer.id, name=offer.name, arguments_text=seen))
            rows += more
        self.findings += tuple(rows)
        self._observe(rows, self._strict(from_model(self._rules)), "to the agent")
        document = answer.document if streamed else self._document(answer.document, plan)
        return replace(answer, text=text, offers=tuple(offers), document=document)

    async def seen(self, answer: Answer) -> Answer:
        """Do the same for a whole answer, with the task's placeholders if it needs them. Raises Problem as `read`."""
        if self.silent(answer):
            return answer
        if self.ruled and mentioned(_shown(answer)):
            await self.read()
        before, shown = self.findings, self.answer(answer)
        if self.wanting:
            await self.prepare()
            self.findings = before
            shown = self.answer(answer)
        return shown

    def silent(self, answer: Answer) -> bool:
        """Whether nothing can stand in it. Arguments are JSON, whose escapes may hide what they say."""
        if answer.offers and any("\\" in offer.arguments_text for offer in answer.offers):
            return False
        return self.plain(_shown(answer))

    def answer_plan(self) -> Plan:
        """Secrets are masked; values behind placeholders come back where the workflow restores them for the agent."""
        rules = self._rules
        if rules is None:
            return Plan(actions=ANSWERED)
        return self._plan(self._strict(from_model(self._rules)), restore=rules.to_agent == "restore")

    def arguments_text(self, text: str, at: str, *, streamed: bool = False) -> tuple[str, tuple[Finding, ...]]:
        """A tool call's arguments, JSON as a model wrote it, as the agent may see them.

        Read as JSON, so that a number that is replaced becomes a string; as mere text where it is none, and where
        a stream gave its pieces away before the whole was known.
        """
        plan = self.answer_plan()
        try:
            value = None if streamed and not self.ruled else json.loads(text)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            return rewrite(text, plan, at)
        changed, found = _rewrite(value, plan, at)
        return (text if changed == value else json.dumps(changed, ensure_ascii=False)), found

    def _document(self, document: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
        """A provider's answer in either surface's shape; thinking and its signature stay as they came."""
        if "choices" in document:
            return {**document, "choices": [self._choice(choice, plan) for choice in document["choices"]]}
        return {**document, "content": [self._block(block, plan) for block in document.get("content", ())]}

    def _choice(self, choice: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
        message = dict(choice["message"])
        said = {name: message[name] for name in ("content", "refusal") if message.get(name) is not None}
        seen = rewrite(said, plan)[0]
        calls = [self._call(call) for call in message.get("tool_calls") or ()]
        shown = {**choice, "message": {**message, **seen, **({"tool_calls": calls} if calls else {})}}
        return {**shown, "logprobs": None} if seen != said else shown  # they spell the text, token for token

    def _call(self, call: Mapping[str, Any]) -> dict[str, Any]:
        function = call["function"]
        return {**call, "function": {**function, "arguments": self.arguments_text(function["arguments"], "")[0]}}

    def _block(self, block: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
        member = {"text": "text", "tool_use": "input"}.get(block.get("type", ""))
        return {**block, member: _rewrite(block[member], plan)[0]} if member else dict(block)

    # ── towards a tool ──────────────────────────────────────────────────────────────────────────────────────────

    def arguments(self, tool: Tool, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments without a value that a tool may not get. Raises Problem content_blocked.

        Values the tool may get are hidden too: `restored` puts them back, where its schema marks the property.
        """
        actions = self._strict(towards_tool(self._rules, tool.name))
        changed, self.findings = _rewrite(dict(arguments), self._plan(actions), "arguments")
        self._observe(self._kept_from(tool, arguments, actions), actions, f"to {tool.name}")
        return dict(changed)

    def _kept_from(self, tool: Tool, arguments: Mapping[str, Any], actions: Mapping[str, Action]) -> list[Finding]:
        """Give the findings that observing lets pass to a tool which would not have got them."""
        scratch = self._table.scratch()
        if self._enforcement.on or scratch is None:
            return []
        permitted = self._permitted(tool)
        kept: set[str] = set()
        for name in {finding.class_ for finding in self.findings} - {"secret"}:
            hiding: dict[str, Action] = {name: "placeholder", "secret": "allow"}
            hidden = rewrite(dict(arguments), Plan(actions=hiding, placeholders=scratch, regions=self._regions()))[0]
            if actions.get(name) == "block" or restore_arguments(tool.input, hidden, scratch, permitted) != arguments:
                kept.add(name)
        return [finding for finding in self.findings if finding.class_ in kept]

    def restored(self, tool: Tool, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments as the tool gets them: values only of classes that workflow and schema both name."""
        placeholders = self._table.placeholders
        if self._rules is None or placeholders is None:
            return dict(arguments)
        return dict(restore_arguments(tool.input, dict(arguments), placeholders, self._permitted(tool)))

    def _permitted(self, tool: Tool) -> frozenset[str]:
        rules = self._rules
        return rules.to_tools.get(tool.name, frozenset()) - rules.block - set(self._added) if rules else frozenset()

    async def result(self, result: Any) -> Any:
        """A tool's answer as the agent, and its model, may see it. Raises Problem state_unavailable, internal."""
        if self.plain(result):
            return result
        before, shown = self.findings, self._result(result)
        if self.wanting:  # the placeholders that were made: a value may have one already
            await self.prepare()
            self.findings = before
            shown = self._result(result)
        return shown

    def _result(self, result: Any) -> Any:
        actions = self._strict(from_tool(self._rules))
        changed, found = _rewrite(result, self._plan(actions), "result")
        self.findings += found
        self._observe(found, actions, "from a tool")
        return changed

    # ── the record ──────────────────────────────────────────────────────────────────────────────────────────────

    def facts(self) -> dict[str, Value]:
        """What a record says of the findings: class, position, count; never a value."""
        rows: list[Value] = [{**found.document(), "position": found.position[:200]} for found in self.findings[:ROWS]]
        return {"findings": rows} if rows else {}

    def labels(self, labels: Mapping[str, Any]) -> Any:
        """Labels of the spend, which stand in records: what would not reach a model is masked there."""
        if not labels:
            return {}
        actions: dict[str, Action] = {
            name: "mask" for name, action in towards_model(self._rules).items() if action != "allow"
        }
        return _rewrite(dict(labels), Plan(actions={**actions, "secret": "mask"}, regions=self._regions()))[0]

    def names(self, names: Sequence[str]) -> list[Value]:
        """Names of an agent's own functions, which stand in records too."""
        return list(redacted({"names": list(names)}, self._rules)["names"])

    # ── plans ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _regions(self) -> tuple[str, ...]:
        return self._rules.phone_regions if self._rules else ()

    def _classes(self) -> tuple[str, ...]:
        """Every class that a plan of this call looks for."""
        if self._rules is not None:
            return EVERY
        return ordered(("secret", *self._added)) if self._added else SECRETS

    def _strict(self, actions: Mapping[str, Action]) -> dict[str, Action]:
        """The workflow's actions under policy's, which only make them stricter."""
        strict = {name: stricter(action, actions.get(name, "allow")) for name, action in self._added.items()}
        if "secret" in strict:  # policy never makes of a blocked secret a masked one
            strict["secret"] = actions.get("secret", "block")
        return {**actions, **strict}

    def _plan(self, actions: Mapping[str, Action], *, restore: bool = False) -> Plan:
        """What is done: observing, personal data passes as it is, and secrets never do."""
        if not self._enforcement.on:
            actions = {name: action if name == "secret" else "allow" for name, action in actions.items()}
        return Plan(actions=actions, placeholders=self._table.placeholders, restore=restore, regions=self._regions())

    def _observe(self, found: Iterable[Finding], actions: Mapping[str, Action], towards: str) -> None:
        """Note what would have been blocked or replaced."""
        if self._enforcement.on:
            return
        for finding in found:
            action = actions.get(finding.class_, "allow")
            if finding.class_ == "secret" or action == "allow":
                continue
            code = "content_blocked" if action == "block" else action
            detail = f"{finding.count} at {finding.position}"
            self._enforcement.changes("would_block", code, f"{finding.class_} {towards}", detail)


def redacted(payload: Mapping[str, Any], rules: PersonalData | None = None) -> Any:
    """A payload as `payloads: redacted` keeps it: every class masked, `rules`' local telephone numbers too."""
    return _rewrite(dict(payload), replace(REDACTED, regions=rules.phone_regions if rules else ()))[0]


def unsaid(problem: Problem) -> Problem:
    """A problem that quotes no value: an agent is not told what stands behind a placeholder."""
    told = redacted({"detail": problem.detail, "errors": [dict(row) for row in problem.errors]})
    return Problem(problem.code, told["detail"], errors=told["errors"])


def blocked(error: ContentBlocked) -> Problem:
    """The problem that a blocked class is: class and position, no value."""
    rows = [{"path": found.position, "message": f"{found.class_} is not allowed here"} for found in error.findings]
    detail = f"the call holds what must not leave: {str(error)[:200]}; take it out"
    return Problem("content_blocked", detail, errors=rows[:ROWS])


def _rewrite(value: Any, plan: Plan, at: str = "", *, looked: bool = False) -> tuple[Any, tuple[Finding, ...]]:
    """`rewrite`, and the names of members too where something stands in them. Raises Problem content_blocked."""
    try:
        changed, found = rewrite(value, plan, at, looked=looked)
    except ContentBlocked as error:
        raise blocked(error) from None
    return (_renamed(changed, plan) if any("<name>" in row.position for row in found) else changed), found


def _renamed(value: Any, plan: Plan) -> Any:
    if isinstance(value, dict):
        return {rewrite(name, plan)[0]: _renamed(part, plan) for name, part in value.items()}
    return [_renamed(part, plan) for part in value] if isinstance(value, list) else value


def _shown(answer: Answer) -> list[Any]:
    """All of an answer that a plan is applied to: not its id and counts, whose digits might be anything."""
    shown: list[Any] = [answer.text]
    if answer.rendered and not answer.offers:
        return shown  # its one text
    if answer.offers:
        shown += [offer.arguments_text for offer in answer.offers]
    if "choices" in (document := answer.document):
        for choice in document["choices"]:
            message = choice["message"]
            shown += (message.get("content"), message.get("refusal"))
        return shown
    return shown + [block.get(name) for block in document.get("content", ()) for name in ("text", "input")]
