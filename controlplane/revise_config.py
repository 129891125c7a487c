"""How a champion goes on learning between releases, and how far it may go at once."""

from dataclasses import dataclass

from pydantic import ConfigDict

from controlplane.errors import check_ranges

LEAST_S, MOST_S = 60.0, 90 * 86_400.0
MAX_ROWS = 1_000_000
MAX_CONTEXTS = 20_000


@dataclass(frozen=True)
class ReviseConfig:
    """Revisions of the champion.

    Attributes:
        every_s: seconds from one attempt to the next; 0: none.
        max_shift: share of the newest requests on which a revision may choose otherwise than what
            serves: the mean total variation of both distributions.
        min_rows: rewarded interactions that a revision learns from, at least.
        contexts: the newest, over which the shift is measured.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    every_s: float = 0.0
    max_shift: float = 0.1
    min_rows: int = 100
    contexts: int = 1_000

    def __post_init__(self) -> None:
        """Refuse what would revise without end, or anything at once."""
        if self.every_s:
            check_ranges("revise", self, every_s=(LEAST_S, MOST_S))
        check_ranges(
            "revise",
            self,
            max_shift=(0.001, 1),
            min_rows=(1, MAX_ROWS),
            contexts=(10, MAX_CONTEXTS),
        )
