"""Whether a task goes in circles: what its last calls came to, and what it asks for now. Knows no store."""

from buspass.loops.patterns import Asked, Found, Stage, find, stage
from buspass.loops.steps import Step, read_steps, written

__all__ = ["Asked", "Found", "Stage", "Step", "find", "read_steps", "stage", "written"]
