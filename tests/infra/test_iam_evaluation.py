"""The evaluation of IAM policies, on the cases that AWS's own pages tell: what is allowed there is allowed here."""

import pytest
from iam_evaluation import Asked, UnknownOperatorError, allowed

CARLOS = "arn:aws:iam::111122223333:user/carlossalazar"
OTHER = "arn:aws:iam::111122223333:user/mary"
KEY = "arn:aws:kms:us-west-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"


def policy(*statements):
    return {"Version": "2012-10-17", "Statement": list(statements)}


def allow(actions, resources="*", **more):
    return {"Effect": "Allow", "Action": actions, "Resource": resources, **more}


def deny(actions, resources="*", **more):
    return {**allow(actions, resources, **more), "Effect": "Deny"}


# "Example: Evaluating identity-based policies and resource-based policies" of the IAM User Guide.
CARLOS_POLICY = policy(
    allow(
        ["s3:GetBucketLocation", "s3:GetAccountPublicAccessBlock", "s3:ListAccessPoints", "s3:ListAllMyBuckets"],
        "arn:aws:s3:::*",
    ),
    allow("s3:*", ["arn:aws:s3:::carlossalazar/*", "arn:aws:s3:::carlossalazar"]),
    deny("s3:*", "arn:aws:s3:::*log*"),
)
BUCKET_POLICY = policy(
    allow("s3:*", ["arn:aws:s3:::carlossalazar/*", "arn:aws:s3:::carlossalazar"], Principal={"AWS": CARLOS})
)


@pytest.mark.parametrize(
    ("principal", "action", "resource", "identity", "own", "verdict"),
    [
        # "By default, all requests are implicitly denied."
        (CARLOS, "s3:GetObject", "arn:aws:s3:::other/x", [policy()], None, False),
        (CARLOS, "s3:GetObject", "arn:aws:s3:::other/x", [], None, False),
        # "Carlos can save objects in the carlossalazar bucket", by either policy.
        (CARLOS, "s3:PutObject", "arn:aws:s3:::carlossalazar/a.txt", [CARLOS_POLICY], BUCKET_POLICY, True),
        (CARLOS, "s3:PutObject", "arn:aws:s3:::carlossalazar/a.txt", [CARLOS_POLICY], None, True),
        (CARLOS, "s3:PutObject", "arn:aws:s3:::carlossalazar/a.txt", [], BUCKET_POLICY, True),
        # "The request to the carlossalazar-logs bucket is denied": the explicit deny, whoever allows.
        (CARLOS, "s3:ListBucket", "arn:aws:s3:::carlossalazar-logs", [CARLOS_POLICY], BUCKET_POLICY, False),
        (CARLOS, "s3:PutObject", "arn:aws:s3:::carlossalazar/log.txt", [CARLOS_POLICY], BUCKET_POLICY, False),
        # Nobody else is named.
        (OTHER, "s3:PutObject", "arn:aws:s3:::carlossalazar/a.txt", [], BUCKET_POLICY, False),
        # "An explicit deny in any policy overrides any allows", in the resource's, too.
        (
            CARLOS,
            "s3:GetObject",
            "arn:aws:s3:::carlossalazar/a.txt",
            [CARLOS_POLICY],
            policy(deny("s3:GetObject", "arn:aws:s3:::carlossalazar/*", Principal="*")),
            False,
        ),
    ],
)
def test_identity_and_resource_policies_of_one_account(principal, action, resource, identity, own, verdict):
    assert allowed(Asked(principal, action, resource), identity, own) is verdict


@pytest.mark.parametrize(
    ("statement", "action", "resource", "verdict"),
    [
        # Action: "wildcards … case-insensitive".
        (allow("iam:*AccessKey*"), "iam:DeleteAccessKey", "arn:x", True),
        (allow("IAM:listaccesskeys"), "iam:ListAccessKeys", "arn:x", True),
        (allow("iam:*AccessKey*"), "iam:ListUsers", "arn:x", False),
        (allow(["sqs:SendMessage", "sqs:ReceiveMessage"]), "sqs:ReceiveMessage", "arn:x", True),
        # Resource: "* any combination of characters, ? any single character"; case counts.
        (allow("s3:GetObject", "arn:aws:s3:::bucket/folder?/*"), "s3:GetObject", "arn:aws:s3:::bucket/folder1/a/b", True),
        (allow("s3:GetObject", "arn:aws:s3:::bucket/folder?/*"), "s3:GetObject", "arn:aws:s3:::bucket/folder12/a", False),
        (allow("s3:GetObject", "arn:aws:s3:::Bucket/*"), "s3:GetObject", "arn:aws:s3:::bucket/a", False),
        (allow("dynamodb:Query", "arn:aws:dynamodb:us-east-2:1:table/T"), "dynamodb:Query", "arn:aws:dynamodb:us-east-2:1:table/T/index/i", False),
        # NotAction with Allow: "all of the actions … except"; with Deny: "denies all … except".
        ({"Effect": "Allow", "NotAction": "s3:DeleteBucket", "Resource": "arn:aws:s3:::*"}, "s3:PutObject", "arn:aws:s3:::b", True),
        ({"Effect": "Allow", "NotAction": "s3:DeleteBucket", "Resource": "arn:aws:s3:::*"}, "s3:DeleteBucket", "arn:aws:s3:::b", False),
        ({"Effect": "Allow", "NotAction": "iam:*", "Resource": "*"}, "iam:CreateUser", "arn:x", False),
        # NotResource.
        ({"Effect": "Allow", "Action": "s3:*", "NotResource": "arn:aws:s3:::hr/*"}, "s3:GetObject", "arn:aws:s3:::hr/a", False),
        ({"Effect": "Allow", "Action": "s3:*", "NotResource": "arn:aws:s3:::hr/*"}, "s3:GetObject", "arn:aws:s3:::it/a", True),
    ],
)  # fmt: skip
def test_actions_and_resources_are_matched_as_documented(statement, action, resource, verdict):
    assert allowed(Asked(CARLOS, action, resource), [policy(statement)]) is verdict


@pytest.mark.parametrize(
    ("condition", "context", "verdict"),
    [
        ({"StringEquals": {"aws:username": "johndoe"}}, {"aws:UserName": "johndoe"}, True),  # names of keys in any case
        ({"StringEquals": {"aws:username": "johndoe"}}, {"aws:username": "JohnDoe"}, False),
        ({"StringEqualsIgnoreCase": {"aws:username": "johndoe"}}, {"aws:username": "JohnDoe"}, True),
        # "If the key … is not present in the request context, the values do not match and the condition is false."
        ({"StringEquals": {"aws:username": "johndoe"}}, {}, False),
        # "If the policy condition requires that the key is not matched …, the condition is true."
        ({"StringNotEquals": {"aws:username": "johndoe"}}, {}, True),
        ({"StringNotLike": {"s3:prefix": "home/*"}}, {"s3:prefix": "home/a"}, False),
        # IfExists: "if the key is not present, evaluate the condition element as true".
        ({"StringEqualsIfExists": {"ec2:InstanceType": ["t1.*"]}}, {}, True),
        ({"StringLikeIfExists": {"ec2:InstanceType": ["t1.*", "t2.*"]}}, {"ec2:InstanceType": "t2.micro"}, True),
        ({"StringLikeIfExists": {"ec2:InstanceType": ["t1.*", "t2.*"]}}, {"ec2:InstanceType": "m1.large"}, False),
        # several values: OR; several keys and operators: AND; of a negated operator no value may match.
        ({"StringEquals": {"aws:PrincipalTag/department": ["finance", "hr"], "aws:PrincipalTag/role": "audit"}},
         {"aws:PrincipalTag/department": "hr", "aws:PrincipalTag/role": "audit"}, True),
        ({"StringEquals": {"aws:PrincipalTag/department": ["finance", "hr"], "aws:PrincipalTag/role": "audit"}},
         {"aws:PrincipalTag/department": "hr", "aws:PrincipalTag/role": "sales"}, False),
        ({"StringNotEquals": {"aws:PrincipalTag/department": ["hr", "finance"]}}, {"aws:PrincipalTag/department": "hr"}, False),
        ({"Bool": {"aws:SecureTransport": "false"}}, {"aws:SecureTransport": "true"}, False),
        ({"Bool": {"aws:SecureTransport": "true"}}, {"aws:SecureTransport": "true"}, True),
        ({"Null": {"aws:TokenIssueTime": "true"}}, {}, True),
        ({"Null": {"aws:TokenIssueTime": "false"}}, {}, False),
        ({"ArnLike": {"aws:SourceArn": "arn:aws:sns:*:123456789012:*"}}, {"aws:SourceArn": "arn:aws:sns:us-west-2:123456789012:topic"}, True),
    ],
)  # fmt: skip
def test_conditions_hold_as_documented(condition, context, verdict):
    statement = allow("ec2:RunInstances", Condition=condition)
    assert allowed(Asked(CARLOS, "ec2:RunInstances", "arn:x", context), [policy(statement)]) is verdict


@pytest.mark.parametrize(
    ("own", "verdict"),
    [
        # "Unless the key policy explicitly allows it, you cannot use IAM policies to allow access to a KMS key."
        (policy(allow("kms:*", Principal={"AWS": OTHER})), False),
        (policy(allow("kms:*", Principal={"AWS": "arn:aws:iam::111122223333:root"})), True),
        (policy(allow("kms:*", Principal={"AWS": "111122223333"})), True),
        (policy(allow("kms:DescribeKey", Principal={"AWS": "arn:aws:iam::111122223333:root"})), False),
        (policy(allow("kms:Sign", Principal={"AWS": CARLOS})), True),
    ],
)
def test_a_kms_key_belongs_to_its_own_policy(own, verdict):
    identity = [policy(allow("kms:Sign", KEY))]
    assert allowed(Asked(CARLOS, "kms:Sign", KEY), identity, own) is verdict


def test_a_key_policy_that_names_the_account_gives_nothing_by_itself():
    own = policy(allow("kms:*", Principal={"AWS": "arn:aws:iam::111122223333:root"}))
    assert not allowed(Asked(CARLOS, "kms:Sign", KEY), [], own)


def test_what_is_not_evaluated_is_an_error_and_no_guess():
    statement = allow("s3:GetObject", Condition={"NumericLessThan": {"s3:max-keys": "10"}})
    with pytest.raises(UnknownOperatorError, match="NumericLessThan"):
        allowed(Asked(CARLOS, "s3:GetObject", "arn:x", {"s3:max-keys": "5"}), [policy(statement)])
