"""regopy, imported the one safe way: after RE2.

Where regopy is loaded first, RE2's compiling of a pattern such as `[A-Z]{1,40}` frees what it does not own, and the
process is aborted: the first private key in an agent's text would end the gateway. Import regopy nowhere else, and this
only where a module exists: it takes 30 ms that only policies pay.
"""

from __future__ import annotations

import re2
from regopy import Interpreter, LogLevel, RegoError

__all__ = ["Interpreter", "LogLevel", "RegoError", "re2"]
