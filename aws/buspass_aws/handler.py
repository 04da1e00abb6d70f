"""The Lambda entry point: `buspass_aws.handler.handler`. Importing it starts the gateway; it knows nothing else."""

from __future__ import annotations

from buspass.http import start
from buspass_aws.invocation import make_handler

handler = make_handler(start)
