"""What a deployment keeps: the table, the blobs, the signing key and the secrets. It outlives its stack.

Owns their protection. Refuses to know who may use them (`cdk_stack`), but for the key, whose own policy says it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aws_cdk import Acknowledgment, Duration, RemovalPolicy, Validations
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

INDEXES = ("due", "flow", "tail")
LOOK_AFTER = (
    *("CancelKeyDeletion", "CreateAlias", "DeleteAlias", "DescribeKey", "DisableKey", "EnableKey", "GetKeyPolicy"),
    *("GetPublicKey", "ListResourceTags", "PutKeyPolicy", "ScheduleKeyDeletion", "TagResource", "UntagResource"),
    *("UpdateAlias", "UpdateKeyDescription"),
)
"""What the account's administrators may with the key: all but sign."""


class Storage(Construct):
    """The table, the bucket and the secrets."""

    def __init__(self, scope: Construct, name: str, values: Mapping[str, str]) -> None:
        super().__init__(scope, name)
        self.table = self._table(values)
        self.blobs = self._blobs(values)
        self.domain_key = secretsmanager.Secret(
            self,
            "DomainKey",
            secret_name=f"{values['SecretsPrefix']}/{values['DomainKeySecret']}",
            description="32 bytes that the hosts of the trust domain share. To change it is to lose what it wraps.",
            removal_policy=RemovalPolicy.RETAIN,
            generate_secret_string=secretsmanager.SecretStringGenerator(  # 64 hexadecimal digits
                password_length=64,
                exclude_uppercase=True,
                exclude_punctuation=True,
                exclude_characters="ghijklmnopqrstuvwxyz",
                require_each_included_type=False,
            ),
        )
        self.provider_key = secretsmanager.Secret(
            self,
            "ProviderKey",
            secret_name=f"{values['SecretsPrefix']}/{values['ProviderSecret']}",
            description="The model provider's key. Put yours in; what is generated here opens nothing.",
            generate_secret_string=secretsmanager.SecretStringGenerator(password_length=32),
        )
        for secret, why in (
            (
                self.domain_key,
                "What it wraps (task keys, journal MACs) can't be wrapped anew: it is never rotated by itself.",
            ),
            (self.provider_key, "The provider issues it; AWS has no way to rotate it there."),
        ):
            Validations.of(secret).acknowledge(Acknowledgment(id="AwsSolutions-SMG4", reason=why))

    def _table(self, values: Mapping[str, str]) -> dynamodb.Table:
        def text(attribute: str) -> dynamodb.Attribute:
            return dynamodb.Attribute(name=attribute, type=dynamodb.AttributeType.STRING)

        table = dynamodb.Table(
            self,
            "Table",
            table_name=values["TableName"],
            partition_key=text("pk"),
            sort_key=text("sk"),
            billing_mode=dynamodb.BillingMode.PAY_PER_REQUEST,
            deletion_protection=True,
            point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(
                point_in_time_recovery_enabled=True
            ),
            removal_policy=RemovalPolicy.RETAIN,
        )
        for index in INDEXES:
            table.add_global_secondary_index(
                index_name=index,
                partition_key=text(f"{index}_shard"),
                sort_key=text(f"{index}_sort"),
                projection_type=dynamodb.ProjectionType.KEYS_ONLY,
            )
        return table

    def _blobs(self, values: Mapping[str, str]) -> s3.Bucket:
        bucket = s3.Bucket(
            self,
            "Blobs",
            bucket_name=values["BucketName"],
            # Each blob is encrypted before it gets here, under a key of its task; S3's own is the second lock.
            encryption=s3.BucketEncryption.S3_MANAGED,
            versioned=True,
            enforce_ssl=True,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
            removal_policy=RemovalPolicy.RETAIN,
            lifecycle_rules=[
                s3.LifecycleRule(
                    id="old-versions",
                    noncurrent_version_expiration=Duration.days(int(values["OldBlobDays"])),
                    expired_object_delete_marker=True,
                    abort_incomplete_multipart_upload_after=Duration.days(1),
                )
            ],
        )
        Validations.of(bucket).acknowledge(
            Acknowledgment(
                id="AwsSolutions-S1",
                reason="Only the gateway reads here, and its journal says what for; CloudTrail logs the rest.",
            )
        )
        return bucket


def signing_key(scope: Construct, values: Mapping[str, str], signers: Sequence[iam.IPrincipal]) -> kms.Key:
    """Give the key that signs tokens and seals. Its policy alone says who may: no role of IAM does."""
    account = iam.AccountRootPrincipal()
    policy = iam.PolicyDocument(
        statements=[
            iam.PolicyStatement(
                sid="LookAfter",
                principals=[account],
                actions=[f"kms:{action}" for action in LOOK_AFTER],
                resources=["*"],  # in a key's own policy: this key
            ),
            iam.PolicyStatement(
                sid="Sign",
                principals=list(signers),
                actions=["kms:GetPublicKey", "kms:Sign"],
                resources=["*"],  # in a key's own policy: this key
            ),
        ]
    )
    return kms.Key(
        scope,
        "SigningKey",
        description="Signs task tokens, Txn-Tokens and seals. Its private half never leaves KMS.",
        key_spec=kms.KeySpec.ECC_NIST_P256,
        key_usage=kms.KeyUsage.SIGN_VERIFY,
        alias=values["KeyAlias"],
        pending_window=Duration.days(30),
        policy=policy,
        removal_policy=RemovalPolicy.RETAIN,
    )
