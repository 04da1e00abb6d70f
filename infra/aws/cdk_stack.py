"""The functions of a deployment, what each may, and when somebody is to be told.

Owns the roles: action by action, resource by resource. docs/deploy-aws.md has the table, and a test takes each
permission away and sees what fails.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from aws_cdk import Acknowledgment, CfnElement, CfnOutput, Duration, RemovalPolicy, Stack, Validations
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as functions
from aws_cdk import aws_logs as logs
from aws_cdk import aws_sns as sns
from cdk_storage import INDEXES, Storage, signing_key
from constructs import Construct

STATE = ("GetItem", "PutItem", "UpdateItem", "DeleteItem", "Query")


class GatewayStack(Stack):
    """One host of a trust domain, on AWS. `bundle`: the unpacked folder of `make bundle-lambda`."""

    def __init__(self, scope: Construct, name: str, *, values: Mapping[str, str], bundle: Path) -> None:
        super().__init__(scope, name)
        self._values = values
        self._code = functions.Code.from_asset(str(bundle))
        self._storage = Storage(self, "Storage", values)
        streamed = values["Streaming"] == "true"
        gateway, gateway_role, log = self._function(
            "Gateway",
            "Every model call and every tool call of an agent goes through here.",
            handler="buspass.http.start" if streamed else "lambda_function.handler",
            timeout=int(values["TimeoutSeconds"]),
            environment={"AWS_LAMBDA_EXEC_WRAPPER": "/var/task/bootstrap"} if streamed else {},
            may=[*self._blobs(), self._secrets(self._storage.domain_key, self._storage.provider_key)],
            reserved=int(values["ReservedConcurrency"]) or None,
        )
        timer, timer_role, _ = self._function(
            "Timer",
            "Ends what is over, seals journals, gives money back. Money is only late without it, never lost.",
            handler="lambda_function.handler",
            timeout=60,
            environment={},
            may=[self._secrets(self._storage.domain_key)],
        )
        blobs = self.get_logical_id(cast("CfnElement", self._storage.blobs.node.default_child))
        Validations.of(gateway_role).acknowledge(
            Acknowledgment(
                id=f"AwsSolutions::AwsSolutions-IAM5[Resource::<{blobs}.Arn>/*]",
                reason="Names of blobs are made as tasks are: the role may what is below this one bucket.",
            )
        )
        signing_key(self, values, [gateway_role, timer_role])
        self._schedule(timer)
        self._alarms(gateway, timer, log)
        provisioned = int(values["ProvisionedConcurrency"]) or None
        url = gateway.add_alias("live", provisioned_concurrent_executions=provisioned).add_function_url(
            auth_type=functions.FunctionUrlAuthType.NONE,  # Buspass authenticates: docs/deploy-aws.md says why
            invoke_mode=functions.InvokeMode.RESPONSE_STREAM if streamed else functions.InvokeMode.BUFFERED,
        )
        CfnOutput(self, "Url", value=url.url)
        CfnOutput(self, "State", value=f"dynamodb://{self._storage.table.table_name}?region={self.region}")
        CfnOutput(self, "BlobStore", value=f"s3://{self._storage.blobs.bucket_name}?region={self.region}")
        CfnOutput(self, "Signer", value=f"kms://{values['KeyAlias']}")
        CfnOutput(self, "DomainKeyArn", value=self._storage.domain_key.secret_arn)

    def _function(
        self,
        name: str,
        what: str,
        *,
        handler: str,
        timeout: int,
        environment: Mapping[str, str],
        may: Sequence[iam.PolicyStatement],
        reserved: int | None = None,
    ) -> tuple[functions.Function, iam.Role, logs.LogGroup]:
        values = self._values
        log = self._log(name)
        role = self._role(name, log, may)
        arm = values["Architecture"] == "arm64"
        function = functions.Function(
            self,
            name,
            description=what,
            runtime=functions.Runtime.PYTHON_3_13,
            architecture=functions.Architecture.ARM_64 if arm else functions.Architecture.X86_64,
            code=self._code,
            handler=handler,
            role=role,
            memory_size=int(values["MemoryMegabytes"]),
            timeout=Duration.seconds(timeout),
            reserved_concurrent_executions=reserved,
            log_group=log,
            logging_format=functions.LoggingFormat.TEXT,  # the lines are JSON already
            environment={
                "BUSPASS_CONFIG": "/var/task/buspass.json",
                "BUSPASS_HOST": values["HostName"],
                "BUSPASS_DATA": "/tmp/buspass",  # noqa: S108 - Lambda's only writable folder, an instance's own
                "BUSPASS_SECRETS": f"secretsmanager://{values['SecretsPrefix']}",
                "POWERTOOLS_METRICS_NAMESPACE": "Buspass",
                "POWERTOOLS_LOG_LEVEL": "INFO",
                **environment,
            },
        )
        Validations.of(function).acknowledge(
            Acknowledgment(
                id="AwsSolutions-L1", reason="python3.13 is what the bundle's bytecode and wheels are made for."
            )
        )
        return function, role, log

    def _log(self, name: str) -> logs.LogGroup:
        return logs.LogGroup(
            self,
            f"{name}Log",
            log_group_name=f"/aws/lambda/{self.stack_name}-{name.lower()}",
            retention=_days(self._values["LogDays"]),
            removal_policy=RemovalPolicy.DESTROY,
        )

    def _role(self, name: str, log: logs.LogGroup, may: Sequence[iam.PolicyStatement]) -> iam.Role:
        statements = [
            _allow("Log", ["logs:CreateLogStream", "logs:PutLogEvents"], [log.log_group_arn]),
            *self._state(),
            *may,
        ]
        return iam.Role(
            self,
            f"{name}Role",
            assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"),
            inline_policies={name.lower(): iam.PolicyDocument(statements=statements)},
        )

    # ── what a role may ──

    def _state(self) -> list[iam.PolicyStatement]:
        arn = self._storage.table.table_arn
        return [
            _allow("State", [f"dynamodb:{action}" for action in STATE], [arn]),
            _allow("Indexes", ["dynamodb:Query"], [f"{arn}/index/{index}" for index in INDEXES]),
        ]

    def _blobs(self) -> list[iam.PolicyStatement]:
        bucket = self._storage.blobs
        return [
            # names of blobs are made as tasks are
            _allow("Blobs", ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"], [bucket.arn_for_objects("*")]),
            _allow("BlobNames", ["s3:ListBucket"], [bucket.bucket_arn]),
        ]

    def _secrets(self, *secrets: object) -> iam.PolicyStatement:
        return _allow("Secrets", ["secretsmanager:GetSecretValue"], [each.secret_arn for each in secrets])  # type: ignore[attr-defined]

    # ── when ──

    def _schedule(self, timer: functions.Function) -> None:
        events.Rule(
            self,
            "EachMinute",
            schedule=events.Schedule.rate(Duration.minutes(1)),
            # What was not done is due again.
            targets=[targets.LambdaFunction(timer, retry_attempts=0, max_event_age=Duration.minutes(1))],
        )

    def _alarms(self, gateway: functions.Function, timer: functions.Function, log: logs.LogGroup) -> None:
        minute = Duration.minutes(1)
        self._alarm(
            "Errors", gateway.metric_errors(period=minute), "Invocations of the gateway failed: callers see a 502."
        )
        self._alarm("Throttles", gateway.metric_throttles(period=minute), "Calls were turned away at the concurrency.")
        self._alarm(
            "Overrun",
            self._counted(log, "Overruns", "overrun *"),
            "A provider billed more than a call's hold. The task is suspended; its bound was wrong.",
        )
        self._alarm(
            "Breaker",
            self._counted(log, "BreakersOpened", "breaker * then open"),
            "A model target or a tool's service fails so often that calls to it are refused.",
        )
        silent = cloudwatch.Alarm(
            self,
            "TimerAlarm",
            alarm_description="The timer has not run for ten minutes. Nothing is lost; money comes back late.",
            metric=timer.metric_invocations(period=Duration.minutes(5), statistic="Sum"),
            threshold=1,
            evaluation_periods=2,
            comparison_operator=cloudwatch.ComparisonOperator.LESS_THAN_THRESHOLD,
            treat_missing_data=cloudwatch.TreatMissingData.BREACHING,
        )
        self._tell(silent)

    def _counted(self, log: logs.LogGroup, name: str, message: str) -> cloudwatch.Metric:
        found = logs.MetricFilter(
            self,
            f"{name}Filter",
            log_group=log,
            filter_pattern=logs.FilterPattern.literal(f'{{ $.message = "{message}" }}'),
            metric_namespace="Buspass",
            metric_name=name,
            metric_value="1",
            default_value=0,
        )
        return found.metric(statistic="Sum", period=Duration.minutes(1))

    def _alarm(self, name: str, metric: cloudwatch.Metric, what: str) -> None:
        alarm = cloudwatch.Alarm(
            self,
            f"{name}Alarm",
            alarm_description=what,
            metric=metric,
            threshold=0,
            evaluation_periods=1,
            comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD,
            treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
        )
        self._tell(alarm)

    def _tell(self, alarm: cloudwatch.Alarm) -> None:
        if arn := self._values["AlarmTopicArn"]:
            topic = sns.Topic.from_topic_arn(self, f"{alarm.node.id}Topic", arn)
            alarm.add_alarm_action(actions.SnsAction(topic))


def _allow(sid: str, action: list[str], resource: list[str]) -> iam.PolicyStatement:
    return iam.PolicyStatement(sid=sid, actions=action, resources=resource)


def _days(text: str) -> logs.RetentionDays:
    known = {1: "ONE_DAY", 3: "THREE_DAYS", 5: "FIVE_DAYS", 7: "ONE_WEEK", 14: "TWO_WEEKS", 30: "ONE_MONTH"}
    known |= {60: "TWO_MONTHS", 90: "THREE_MONTHS", 180: "SIX_MONTHS", 365: "ONE_YEAR", 731: "TWO_YEARS"}
    return logs.RetentionDays[known[int(text)]]
