"""Messages to operators' own systems. Knows no task's money and no call, and sends nothing: that is `alerting`."""

from buspass.alerts.alerts import Alert, Alerts, partition
from buspass.alerts.signing import signed

__all__ = ["Alert", "Alerts", "partition", "signed"]
