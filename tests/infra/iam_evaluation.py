"""Whether AWS's policies allow a request: the part of IAM's evaluation that decides inside one account.

What is evaluated: identity-based policies of the principal and the resource's own policy; an explicit deny before any
allow, no allow is a denial; `Action`, `NotAction`, `Resource`, `NotResource` with `*` and `?`; `Principal` by account, ARN
or `*`; conditions by Bool, String…, Arn… and Null, with `IfExists`. A KMS key's policy must allow by itself, or hand over
to the account's identity-based policies by naming its root. What is not: other accounts, organizations' policies,
permissions boundaries, session policies, policy variables, `ForAllValues:` and `ForAnyValue:`; what is asked of those is an
error and no guess. Source: docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html
"""

import re
from dataclasses import dataclass, field
from functools import cache


@dataclass(frozen=True)
class Asked:
    """One request: by whom, what and on what, with the keys that conditions see."""

    principal: str
    action: str
    resource: str
    context: dict = field(default_factory=dict)


def allowed(asked, identity, resource=None):
    """Evaluate. `identity`: the principal's policies; `resource`: the resource's own, or None."""
    said = [effects(policy, asked, owner=False) for policy in identity]
    own = effects(resource, asked, owner=True) if resource else set()
    if "Deny" in own.union(*said):
        return False
    by_identity = any("Allow" in each for each in said)
    if asked.action.lower().startswith("kms:"):
        return "Allow" in own or (by_identity and "Delegate" in own)
    return by_identity or "Allow" in own


def effects(policy, asked, *, owner):
    """The effects of the statements that match. `Delegate`: an allowance for the account, which is its IAM's to give."""
    found = set()
    for statement in many(policy["Statement"]):
        who = principal(statement["Principal"], asked.principal) if owner else "direct"
        if (
            who
            and action(statement, asked.action)
            and target(statement, asked.resource)
            and conditions(statement, asked)
        ):
            deny = statement["Effect"] == "Deny"
            found.add("Deny" if deny else "Delegate" if who == "account" else "Allow")
    return found


def many(value):
    return value if isinstance(value, list) else [value]


@cache
def pattern(text, *, fold):
    inside = "".join(".*" if each == "*" else "." if each == "?" else re.escape(each) for each in text)
    return re.compile(inside, re.DOTALL | (re.IGNORECASE if fold else 0))


def like(text, patterns, *, fold=False):
    return any(pattern(each, fold=fold).fullmatch(text) for each in many(patterns))


def principal(said, who):
    """How a resource's policy names the principal: `direct`, by its `account`, or not at all."""
    if said == "*":
        return "direct"
    names = many(said.get("AWS", []))
    account = who.split(":")[4]
    if "*" in names or who in names:
        return "direct"
    roots = {account, f"arn:aws:iam::{account}:root"}
    return "account" if roots & set(names) else ""


def action(statement, wanted):
    if "NotAction" in statement:
        return not like(wanted, statement["NotAction"], fold=True)
    return like(wanted, statement["Action"], fold=True)


def target(statement, wanted):
    if "NotResource" in statement:
        return not like(wanted, statement["NotResource"])
    return like(wanted, statement["Resource"])


def conditions(statement, asked):
    keys = {name.lower(): value for name, value in asked.context.items()}
    return all(
        holds(operator, keys.get(name.lower()), many(values))
        for operator, pairs in statement.get("Condition", {}).items()
        for name, values in pairs.items()
    )


def holds(operator, found, values):
    """One key of one operator: any of its values will do; of a negated operator none may."""
    if operator == "Null":
        return str(found is None).lower() in [str(value).lower() for value in values]
    lenient = operator.endswith("IfExists")
    name = operator.removesuffix("IfExists")
    negated = "Not" in name
    if found is None:
        return lenient or negated
    matched = any(matches(name.replace("Not", ""), str(found), str(value)) for value in values)
    return matched != negated


def matches(operator, found, value):
    match operator:
        case "StringEquals" | "ArnEquals":
            return found == value if operator == "StringEquals" else like(found, value)
        case "StringEqualsIgnoreCase" | "Bool":
            return found.lower() == value.lower()
        case "StringLike" | "ArnLike":
            return like(found, value)
    raise UnknownOperatorError(operator)


class UnknownOperatorError(Exception):
    """An operator that this evaluation does not know."""
