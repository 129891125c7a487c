"""How a champion goes on learning between releases, and how far it may go at once."""

from dataclasses import dataclass

from pydantic import ConfigDict

from controlplane.errors import SettingError

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
        good = {
            "every_s": self.every_s == 0 or LEAST_S <= self.every_s <= MOST_S,
            "max_shift": 0.001 <= self.max_shift <= 1,
            "min_rows": 1 <= self.min_rows <= MAX_ROWS,
            "contexts": 10 <= self.contexts <= MAX_CONTEXTS,
        }
        for name, kept in good.items():
            if not kept:
                raise SettingError(
                    f"revise.{name}", f"revise.{name} is {getattr(self, name)}: out of range"
                )
