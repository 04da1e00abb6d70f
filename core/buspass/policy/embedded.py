"""The embedded engine: Rego on regopy, wrapped so that whatever goes wrong is no permission.

Owns regopy's traps: an interpreter shared between threads answers wrongly, so there is one a thread; `set_input` cuts
strings at NUL, unescapes them and rounds floats, so the input goes in as JSON text; built-ins that fail are an error
and not merely undefined; functions on strings see escapes as they are written. Refuses to know what an answer means.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Final

from buspass.policy import scan
from buspass.ports.policy import PolicyUnavailable

LARGEST: Final = 2**53 - 1
"""Beyond it regopy's rounding overflows into negative numbers."""
_LOOK_INSIDE: Final = re.compile(
    r"count|contains|startswith|endswith|indexof|indexof_n|substring|split|replace|upper|lower|concat|trim\w*"
    r"|(?:strings|regex|glob|base64|base64url|hex|urlquery|crypto)\..*"
)
_ESCAPED: Final = re.compile(r'["\\\x00-\x1f]')


class EmbeddedEngine:
    """Rego v1 modules by file name. Each question is the whole document `data.buspass.QUESTION`.

    Modules are expected to have passed `lint`. Any thread may ask; a thread's first question compiles (about 10 ms).
    """

    def __init__(self, modules: Mapping[str, str]) -> None:
        self._modules = dict(modules)
        self.questions = scan.questions(modules)
        self.volatile = scan.unsteady(modules)
        self._looks_inside = any(
            _LOOK_INSIDE.fullmatch(name) for source in modules.values() for name, _ in scan.calls(scan.tokens(source))
        )
        self._thread = threading.local()

    async def ask(self, question: str, document: Mapping[str, Any]) -> Mapping[str, Any]:
        """The answer: an object with at least `deny`, a list. Raises `PolicyUnavailable` for everything else."""
        if question not in self.questions:
            raise PolicyUnavailable(f"no module answers {question!r}")
        term = self._term(document)
        try:
            answer = self._answer(question, term)
        except Exception as error:
            # regopy raises its own errors, JSONDecodeError, IndexError, … for a policy that fails, and the state of
            # an interpreter that failed is unknown: whatever it was, nothing is permitted and nothing is reused.
            self._thread.__dict__.clear()
            raise PolicyUnavailable(f"{question!r} could not be evaluated: {type(error).__name__}") from error
        if not isinstance(answer, dict) or not isinstance(answer.get("deny"), list):
            raise PolicyUnavailable(f"{question!r} has no well-formed answer: deny must be a set of reasons")
        return answer

    async def ready(self) -> None:
        """Nothing that is away can keep it from answering."""

    def _term(self, document: Mapping[str, Any]) -> str:
        try:
            for value in _scalars(document):
                self._refuse(value)
            return json.dumps(document, ensure_ascii=False, allow_nan=False, check_circular=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise PolicyUnavailable(f"the input can't be put to the engine: {error}") from error

    def _refuse(self, value: Any) -> None:
        """What regopy would answer otherwise than OPA."""
        if isinstance(value, int | float) and abs(value) > LARGEST:
            raise ValueError("a number is too large")
        if self._looks_inside and isinstance(value, str) and _ESCAPED.search(value):
            raise ValueError("a policy looks inside of strings, and one has a quote, backslash or control character")

    def _answer(self, question: str, term: str) -> Any:
        interpreter, bundle = self._compiled()
        interpreter.set_input_term(term)
        output = interpreter.query_bundle_entrypoint(bundle, f"buspass/{question}")
        if not output.ok() or len(output) != 1 or len(output[0].expressions) != 1:
            raise LookupError(f"undefined or an error: {output!s:.200}")
        return output[0][0]

    def _compiled(self) -> tuple[Any, Any]:
        """This thread's interpreter and bundle; regopy is imported only where a module exists."""
        if not hasattr(self._thread, "compiled"):
            from buspass.policy.library import Interpreter, LogLevel  # noqa: PLC0415 - 30 ms that only policies pay

            interpreter = Interpreter()
            interpreter.log_level = LogLevel.NONE
            interpreter.strict_built_in_errors = True
            for name, source in self._modules.items():
                interpreter.add_module(name, source)
            bundle = interpreter.build(None, [f"buspass/{asked}" for asked in sorted(self.questions)])
            if not bundle.ok():
                raise ValueError("the modules do not compile")
            self._thread.compiled = interpreter, bundle
        compiled: tuple[Any, Any] = self._thread.compiled
        return compiled


def _scalars(value: Any) -> Iterator[Any]:
    """Every scalar of a document, its member names among them."""
    if isinstance(value, Mapping):
        for name, below in value.items():
            yield name
            yield from _scalars(below)
    elif isinstance(value, list | tuple):
        for below in value:
            yield from _scalars(below)
    else:
        yield value
