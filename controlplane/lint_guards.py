"""Guards of heads that leave no arm: one by itself, or two that hold for the same request."""

from collections.abc import Iterator
from itertools import combinations

from controlplane.lint_subject import Finding, Subject, error, warning


def lint_guards(subject: Subject) -> Iterator[Finding]:
    """All rules on guards.

    Where no arm has the tags of all guards that hold, an edge refuses the request (503).
    """
    guards = subject.config.guards
    carried = [set(arm.card.tags) for arm in subject.arms]
    reached = [guard for guard in guards if any(guard.tag in tags for tags in carried)]
    for guard in guards:
        if guard not in reached:
            yield error(
                "guard-without-arm",
                "guards",
                f"no arm has the tag {guard.tag!r}: where the head {guard.head} is sure, every "
                "request is refused",
                "tag an arm's card, or take the guard out",
            )
    crossing = [
        (one, other)
        for one, other in combinations(reached, 2)
        if not any({one.tag, other.tag} <= tags for tags in carried)
    ]
    for one, other in crossing:
        yield warning(
            "guards-cross",
            "guards",
            f"no arm has both tags, {one.tag!r} (head {one.head}) and {other.tag!r} (head "
            f"{other.head}): where both heads are sure, the request is refused",
            "tag one arm's card with both, or give both guards one tag",
        )
    every = {guard.tag for guard in reached}
    if every and not crossing and not any(every <= tags for tags in carried):
        yield warning(
            "guards-cross",
            "guards",
            f"no arm has all tags of the guards, {sorted(every)}: where all their heads are sure, "
            "the request is refused",
            "tag one arm's card with all of them, or give the guards fewer tags",
        )
