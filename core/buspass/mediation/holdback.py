"""A stream under a plan: text goes out as soon as nothing that follows can make it part of a finding."""

from __future__ import annotations

from collections import Counter

from buspass.mediation.inspect import Finding, counted
from buspass.mediation.rewriting import ContentBlocked, Plan
from buspass.mediation.scanner import Part, Scanner


class Holdback:
    """One text of a stream: the visible answer, or one tool call's arguments.

    What comes out, joined, is what `rewrite` makes of the whole text, however it was cut. At most 512 characters are
    held, in prose the last word or two.

    ContentBlocked from `feed` or `flush` ends the stream: nothing from the blocked value on has been given out.
    """

    def __init__(self, plan: Plan, position: str = "text") -> None:
        self._plan = plan
        self._position = position
        self._scanner = Scanner(plan.classes, plan.regions)
        self._counts: Counter[str] = Counter()

    def feed(self, text: str) -> str:
        """What can be sent now; often empty."""
        return self._apply(self._scanner.feed(text))

    def feed_silent(self, text: str) -> str | None:
        """The same where the plan is surely not needed for it; else None, and nothing is taken."""
        found = self._scanner.feed_silent(text)
        return None if found is None else self._apply(found)

    def replan(self, plan: Plan) -> None:
        """Go on by another plan, for the same classes and regions."""
        self._plan = plan

    def flush(self) -> str:
        """The rest, when the text is complete."""
        return self._apply(self._scanner.flush())

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was found until now, one row a class."""
        return tuple(
            Finding(class_=class_, position=self._position, count=count) for class_, count in self._counts.items()
        )

    def _apply(self, found: list[Part]) -> str:
        for part in found:
            if part.class_:
                break
        else:  # nearly always
            return found[0].text if len(found) == 1 else "".join([part.text for part in found])
        findings = counted(self._position, found)
        for finding in findings:
            self._counts[finding.class_] += finding.count
        blocked = self._plan.blocked(findings)
        if blocked:
            raise ContentBlocked(blocked)
        return "".join(map(self._plan.apply, found))
