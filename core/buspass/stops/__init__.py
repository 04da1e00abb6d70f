"""What operators have ordered to stand still. Knows no task's money, no call and no way to end one."""

from buspass.stops.stops import KINDS, VIEW, Kind, Stop, Stops, refusal, stop_id

__all__ = ["KINDS", "VIEW", "Kind", "Stop", "Stops", "refusal", "stop_id"]
