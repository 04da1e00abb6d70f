"""The Lambda entry point: `buspass_aws.handler.handler`. Importing it starts the gateway; it knows nothing else."""

from __future__ import annotations

import gc
import os

gc.disable()  # nothing dies while modules load: collections in between would only cost the cold start its milliseconds

from buspass.http import start  # noqa: E402
from buspass_aws import authorities  # noqa: E402
from buspass_aws.invocation import make_handler  # noqa: E402

authorities.choose(os.environ)
handler = make_handler(start)
gc.freeze()
gc.enable()
