"""The access log line and the metrics of a request on Lambda, by Powertools.

Owns what is said of a request, and that nothing secret is: never a body, a header or a query. Refuses to know how a
request arrived and how its answer leaves.
"""

from __future__ import annotations

from collections.abc import Mapping

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit

from buspass_aws.asgi import Request


class AccessLog:
    """One logger and one set of metrics per instance."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        # Powertools names its logger after the service: as core's own begin, so that their lines go the same way.
        self.logger = Logger(service="buspass")
        self.metrics = Metrics(namespace=environ.get("POWERTOOLS_METRICS_NAMESPACE", "Buspass"), service="buspass")
        self._cold = True

    def begin(self, invocation: str, correlation: str) -> None:
        """Name the invocation in the lines to come, and count the instance's first."""
        self.logger.append_keys(function_request_id=invocation, correlation_id=correlation, cold_start=self._cold)
        if self._cold:
            self._cold = False
            self.metrics.add_metric(name="ColdStart", unit=MetricUnit.Count, value=1)

    def ticked(self, looked: int) -> None:
        """Count what a tick of the timer looked after."""
        self.metrics.add_metric(name="Looked", unit=MetricUnit.Count, value=looked)

    def record(self, request: Request, status: int, milliseconds: float) -> None:
        """Log and count one request."""
        self.metrics.add_metric(name="Requests", unit=MetricUnit.Count, value=1)
        self.metrics.add_metric(name="ServerErrors", unit=MetricUnit.Count, value=int(status >= 500))
        self.metrics.add_metric(name="Latency", unit=MetricUnit.Milliseconds, value=milliseconds)
        self.logger.info(
            "request",
            method=request.scope["method"],
            path=request.scope["path"],
            status=status,
            latency_ms=round(milliseconds, 3),
            request_bytes=len(request.body),
        )
