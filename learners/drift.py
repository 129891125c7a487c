"""When arms have changed: detectors over a learner's residuals, which trigger forgetting.

A residual is what an interaction earned less what the learner predicted, in standard deviations
of reward, so it stays about 0 while the arm stays as it was, whatever the contexts.

* ``page_hinkley``: the residuals' mean has moved (Page 1954; as River's ``PageHinkley``, to the
  same row). Its state is six numbers, so it is written here.
* ``adwin``: two parts of the window of residuals differ (Bifet & Gavaldà 2007): River's ``ADWIN``.
  It can not be saved, so the state is the residuals since the last change, at most
  :data:`WINDOW`; when they are as many, the older half is dropped and the detector is made again.

Of 100 streams of 10,000 residuals of standard deviation 1 without any change, ``page_hinkley``
gave an alarm in 10 and ``adwin`` in none. A jump of one standard deviation was found after 64 and
99 interactions of the arm in the median, after 85 and 195 at worst; of half of one after 165 and
291, and ``adwin`` at times not at all; of a third ``page_hinkley`` after 256. With a slack of 0.25
and a threshold of 45 it gave an alarm in 1 of the streams without any change, but did not find most
jumps of a third, as where the two arms of a table of pass or fail are swapped.

Small changes of many arms at once, which no arm's own mean shows in time, are seen by
:class:`Contrast`: whether the arms that were promised to be better still are.

A learner that steps row by row holds a detector an arm, as ``river_linear`` does. One that adds
whole batches up calls :func:`alarms`, clears the arms that it names and learns their rows from the
alarm on.
"""

from dataclasses import astuple, dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from river import drift

from learners.errors import SpecError

Floats = NDArray[np.float64]

KINDS = ("none", "page_hinkley", "adwin")

WINDOW = 1_024
_MOST = 3.0
"""Residuals are cut here, as ADWIN's bound is for values in a range of 1."""
_SIZES = {"none": 0, "page_hinkley": 6, "adwin": 1 + WINDOW}


class Detector(Protocol):
    """Watches one arm; after an alarm it has begun anew."""

    def update(self, residual: float) -> bool:
        """Whether the arm has changed."""

    def numbers(self) -> Floats:
        """All of its state, shape ``(s,)``."""


@dataclass(slots=True)
class PageHinkley:
    """The test of Page on the distance of each residual from the mean so far, both ways.

    ``count`` to ``most`` are its state: of the residuals their number and mean, and the two sums
    with their least and greatest.
    """

    count: float = 0.0
    mean: float = 0.0
    up: float = 0.0
    down: float = 0.0
    least: float = float("inf")
    most: float = -1.0

    SLACK = 0.1
    THRESHOLD = 60.0
    FEWEST = 30
    FADING = 0.9999

    def update(self, residual: float) -> bool:
        """Add one."""
        self.count += 1
        self.mean += (residual - self.mean) / self.count
        deviation = residual - self.mean
        self.up = self.FADING * self.up + deviation - self.SLACK
        self.down = self.FADING * self.down + deviation + self.SLACK
        self.least = min(self.least, self.up)
        self.most = max(self.most, self.down)
        moved = max(self.up - self.least, self.most - self.down)
        found = self.count >= self.FEWEST and moved > self.THRESHOLD
        if found:
            anew = astuple(PageHinkley())
            self.count, self.mean, self.up, self.down, self.least, self.most = anew
        return found

    def numbers(self) -> Floats:
        """Six numbers."""
        return np.array(astuple(self))


class Adwin:
    """River's ADWIN over the residuals since the last change."""

    CONFIDENCE = 0.002

    def __init__(self, residuals: list[float] | None = None) -> None:
        """The detector that has seen these, whatever it said of them."""
        self._seen = residuals or []
        self._adwin = self._made()

    def _made(self) -> Any:
        river: Any = drift  # it has no types here
        made = river.ADWIN(delta=self.CONFIDENCE)
        for residual in self._seen:
            made.update(residual)
        return made

    def update(self, residual: float) -> bool:
        """Add one."""
        scaled = (min(max(residual, -_MOST), _MOST) + _MOST) / (2 * _MOST)
        self._seen.append(scaled)
        self._adwin.update(scaled)
        found = bool(self._adwin.drift_detected)
        if found:
            self._seen = []
        if found or len(self._seen) >= WINDOW:
            self._seen = self._seen[-(WINDOW // 2) :]
            self._adwin = self._made()
        return found

    def numbers(self) -> Floats:
        """How many residuals, and they."""
        row = np.zeros(_SIZES["adwin"])
        row[0] = len(self._seen)
        row[1 : 1 + len(self._seen)] = self._seen
        return row


def checked(learner: str, kind: str) -> str:
    """Refuse a detector that there is not.

    Raises:
        SpecError: There is none of that name.
    """
    if kind not in KINDS:
        raise SpecError(f"{learner}.drift is {kind!r}: give {', '.join(KINDS)}")
    return kind


def start(kind: str, arms: int) -> Floats:
    """The state ``(K, s)`` of detectors that have seen nothing."""
    if kind == "page_hinkley":
        return np.tile(PageHinkley().numbers(), (arms, 1))
    return np.zeros((arms, _SIZES[kind]))


def resumed(kind: str, numbers: Floats) -> Detector | None:
    """The detector of one arm's state ``(s,)``; None where nothing is watched."""
    if kind == "page_hinkley":
        return PageHinkley(*numbers.tolist())
    if kind == "adwin":
        return Adwin(numbers[1 : 1 + int(numbers[0])].tolist())
    return None


def alarms(
    kind: str, numbers: Floats, arm: NDArray[np.int64], residual: Floats
) -> tuple[Floats, NDArray[np.int64]]:
    """Watch a batch's residuals ``(n,)`` of the arms ``(n,)``.

    Returns:
        The new state ``(K, s)``, and for each arm the row of its last alarm, or -1.
    """
    after, last = numbers.copy(), np.full(len(numbers), -1, dtype=np.int64)
    for each in np.unique(arm).tolist():
        detector = resumed(kind, numbers[each])
        if detector is None:
            break
        for row in np.flatnonzero(arm == each).tolist():
            if detector.update(float(residual[row])):
                last[each] = row
        after[each] = detector.numbers()
    return after, last


@dataclass(frozen=True, slots=True, eq=False)
class Contrast:
    """Whether what tells the arms apart has turned round, by a cumulative sum over all arms.

    Each interaction's advantage ``a`` is what its arm was predicted to earn more than the eligible
    arms do on average, its residual ``e`` what it earned more than predicted, both in standard
    deviations of reward. If the prediction ``p`` holds, the reward is about ``p``; if the arms have
    changed places, about ``p - 2 a``. The evidence is the log of the likelihood ratio of the two
    for normal noise of deviation 1, ``-2 a (e + a)``, summed and never below 0 (Page 1954). Each
    context's own advantage counts, so a swap is seen that hardly moves an arm's mean: of advantages
    of a quarter of a deviation after 110 interactions in the median, after 312 at worst of 200
    streams. Advantages that are merely too large tell of nothing: where half of each was left, 3
    of 100 streams of 5,000 gave an alarm, and none where all was.

    Attributes:
        evidence: what each arm's interactions add to the sum, shape ``(K,)``.
        rows: interactions since the sum was last 0: the likeliest time of the change.
    """

    evidence: Floats
    rows: int = 0

    THRESHOLD: ClassVar[float] = 16.0
    """Where the predictions hold, a false alarm in ``exp(16)``, nine million, interactions."""

    @property
    def changed(self) -> NDArray[np.bool_]:
        """The arms that have changed places, ``(K,)``: none until the evidence is enough."""
        enough = float(self.evidence.sum()) > self.THRESHOLD
        return np.asarray((self.evidence > 0) & enough, dtype=np.bool_)

    def after(self, arm: NDArray[np.int64], advantage: Floats, residual: Floats) -> "Contrast":
        """The sum with further interactions; once the evidence is enough they are only counted.

        Args:
            arm: that served each, shape ``(n,)``.
            advantage: shape ``(n,)``.
            residual: shape ``(n,)``.
        """
        each, total, rows = self.evidence.copy(), float(self.evidence.sum()), self.rows
        added = (-2.0 * advantage * (residual + advantage)).tolist()
        for place, value in zip(arm.tolist(), added, strict=True):
            rows += 1
            if total > self.THRESHOLD:
                continue
            total += value
            each[place] += value
            if total <= 0:
                each[:], total, rows = 0.0, 0.0, 0
        return Contrast(each, rows)
