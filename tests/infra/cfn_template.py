"""A CloudFormation template with its values filled in, as far as our own templates go; anything else is an error.

Owns YAML's short forms and the intrinsic functions. Refuses to know what a resource is: what it is called and its ARN come
from whoever has made it.
"""

import json
import re

import yaml


class _Loader(yaml.SafeLoader):
    pass


def _tagged(loader, suffix, node):
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)
    if suffix == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {"Ref" if suffix == "Ref" else f"Fn::{suffix}": value}


_Loader.add_multi_constructor("!", _tagged)
NOTHING = object()


class Template:
    """`values`: the parameters; `made`: of a resource by its logical id, `{"Ref": …, "Arn": …}`."""

    def __init__(self, text, values, made):
        self.document = json.loads(text) if text.lstrip().startswith("{") else yaml.load(text, _Loader)
        defaults = {name: shape.get("Default") for name, shape in self.document.get("Parameters", {}).items()}
        account = {"Partition": "aws", "Region": "eu-central-1", "AccountId": "000000000000", "StackName": "buspass"}
        pseudo = {f"AWS::{name}": value for name, value in {**account, "URLSuffix": "amazonaws.com"}.items()}
        self.values = {**pseudo, **defaults, **values}
        self.made = made

    def resources(self, kind):
        found = self.document["Resources"]
        return {name: shape for name, shape in found.items() if shape["Type"] == kind}

    def properties(self, name):
        return self.filled(self.document["Resources"][name]["Properties"])

    def filled(self, value):
        if isinstance(value, list):
            return [each for part in value if (each := self.filled(part)) is not NOTHING]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            ((name, argument),) = value.items()
            if name == "Ref":
                return self.reference(argument)
            if name.startswith("Fn::"):
                return self.function(name.removeprefix("Fn::"), argument)
        return {name: each for name, part in value.items() if (each := self.filled(part)) is not NOTHING}

    def reference(self, name):
        if name == "AWS::NoValue":
            return NOTHING
        return self.made[name]["Ref"] if name in self.made else self.values[name]

    def function(self, name, argument):
        match name:
            case "GetAtt":
                resource, attribute = argument
                return self.made[resource][attribute]
            case "Sub":
                return re.sub(r"\$\{([\w:.]+)\}", lambda found: self.substituted(found[1]), argument)
            case "Join":
                between, parts = argument
                return between.join(map(str, self.filled(parts)))
            case "If":
                condition, yes, no = argument
                return self.filled(yes if self.holds(self.document["Conditions"][condition]) else no)
        raise ValueError(f"Fn::{name}")

    def substituted(self, name):
        resource, dot, attribute = name.partition(".")
        return str(self.made[resource][attribute] if dot else self.reference(name))

    def holds(self, condition):
        ((name, argument),) = condition.items()
        if name == "Fn::Not":
            return not self.holds(argument[0])
        assert name == "Fn::Equals", name
        left, right = self.filled(argument)
        return str(left) == str(right)

    def policies(self, role):
        """The role's policies: its own, and those that are attached from beside it."""
        own = [each["PolicyDocument"] for each in self.properties(role).get("Policies", [])]
        beside = [self.properties(name) for name in self.resources("AWS::IAM::Policy")]
        name = self.made[role]["Ref"]
        return own + [each["PolicyDocument"] for each in beside if name in each["Roles"]]
