"""Train the candidates of a round, and weigh each against the champion on newer log. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from controlplane.config import BASELINE, LearnerConfig, PolicyConfig
from controlplane.gates import Evidence, level_of
from controlplane.log_checks import Background
from controlplane.round_log import RoundLog
from controlplane.specs import spec_of
from learners import catalogue, diagnostics, ope
from learners.contract import Spec
from learners.diagnostics import Finding
from learners.errors import LearnersError
from learners.interactions import Interactions, arrange, clusters_of
from learners.ope import NORMAL, Calibration, Evaluation, Interval
from learners.pairs import Pair
from learners.preferences import mixes
from learners.priors import TAKES_NONE, as_interactions
from learners.records import Arm, Context, Estimate, Interaction
from learners.rewards import RewardFunction
from learners.scorers.base import Scorer
from learners.unseen import gain_seen

MIN_TRIED = 10
"""Trained interactions that an arm needs before a learner's own opinion of it counts."""

FAILURES = (LearnersError, ArithmeticError, RuntimeError, ValueError)
"""Ours, and those of the libraries that some learners are made of."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A freshly trained policy and what it was made from."""

    learner: LearnerConfig
    scorer: Scorer
    snapshot: bytes


@dataclass(frozen=True, slots=True)
class Incumbent:
    """The champion: its number and its scorer."""

    version: int
    scorer: Scorer


def train(
    log: Interactions,
    config: PolicyConfig,
    arms: Sequence[Arm],
    reward: RewardFunction | None = None,
    *,
    seed: int,
) -> tuple[list[Candidate], dict[str, str]]:
    """Train every candidate from scratch on the same log: the same log gives the same bytes.

    Args:
        log: encoded for ``arms`` and ``reward``.
        config: names the learners.
        arms: those in service.
        reward: what the log was rewarded by.
        seed: of whatever the learners draw.

    Returns:
        The candidates, and by name why a learner could not be trained: one that fails takes no
        other with it.

    Raises:
        LearnersError: The baseline itself fails.
    """
    found, failed = [], {}
    for learner in config.candidates:
        try:
            spec = spec_of(learner, config, arms, reward, seed)
            found.append(_train(learner, spec, log, config))
        except FAILURES as error:
            if learner.name == BASELINE:
                raise
            failed[learner.name] = str(error) or repr(error)
    return found, failed


def _train(
    learner: LearnerConfig, spec: Spec, log: Interactions, config: PolicyConfig
) -> Candidate:
    module = catalogue.load(learner.name)
    if learner.quality is not None:
        log = learner.quality.passed(log)
    state = module.init(spec)
    if config.prior and learner.name not in TAKES_NONE:
        state = module.learn(state, as_interactions(config.prior, spec, log))
    state = module.learn(state, log)
    scorer = _modest(module.freeze(state), log)
    return Candidate(learner, scorer.floored(config.floor), module.snapshot(state))


def _modest(scorer: Scorer, log: Interactions) -> Scorer:
    """The scorer with arms that have hardly been tried made average ones.

    A learner is optimistic about what it has not seen. The judged log cannot say whether it is
    right, so such an arm is left to the floor until it has been tried.
    """
    taught = log.action[log.weight > 0]
    tried = np.bincount(taught, minlength=len(log.arms)) >= MIN_TRIED
    if tried.all() or not tried.any():
        return scorer
    known = [arm for arm, enough in zip(log.arms, tried, strict=True) if enough]
    return scorer.modest(known)


def weigh(
    rows: Sequence[Interaction],
    candidates: Sequence[Candidate],
    champion: Incumbent,
    config: PolicyConfig,
    *,
    read: RoundLog,
    look: int,
    background: Background | None = None,
) -> tuple[list[tuple[Candidate, Evidence | None]], dict[str, str]]:
    """Weigh every candidate on rows newer than anyone's training.

    The log is encoded by the policy's schema, then by the champion's. What the tables say of it
    beside the rows counts in every verdict; requests that two arms answered calibrate the model.

    Returns:
        The candidates, each with its evidence, which is None without rows; and by name why a
        candidate could not be weighed: one that fails takes no other with it. All of them count
        in the level, so that nobody gains by another's failure.

    Raises:
        LearnersError: The baseline or the champion itself fails.
    """
    arms = candidates[0].scorer.arms
    judge = Log.of(rows, arms, read)
    if len(judge.log) < ope.FOLDS:
        return [(candidate, None) for candidate in candidates], {}
    predicted, calibration = judge.predicted(background.pairs if background else ())
    baseline = next(c for c in candidates if c.learner.name == BASELINE)
    fixed = judge.distribution(judge.log.x, baseline.scorer.greedy())
    serving = judge.distribution(judge.standing_x, champion.scorer.over(arms))
    reference, standing = (judge.valued(each, predicted) for each in (fixed, serving))
    level = level_of(config.gate, look, len(candidates))
    spread = float(np.ptp(judge.log.reward))
    found = background.findings(rows, config.gate) if background else ()

    def over(own: Evaluation, other: Evaluation) -> Estimate:
        return ope.difference(own, other, level=level, reward_range=spread)

    def evidence(candidate: Candidate) -> Evidence:
        share = judge.distribution(judge.log.x, candidate.scorer)
        own, is_baseline = judge.valued(share, predicted), candidate.learner.name == BASELINE
        seen = judge.seen(share, serving, None if is_baseline else fixed)
        return Evidence(
            judged=len(judge.log),
            value=ope.estimate(own),
            champion=ope.estimate(standing),
            best_fixed=ope.estimate(reference),
            over_champion=over(own, standing),
            over_best_fixed=None if is_baseline else over(own, reference),
            mean_weight=ope.mean_weight(own),
            champion_version=champion.version,
            look=look,
            candidates=len(candidates),
            diagnostics=(*judge.diagnostics(share, own, config), *seen, *found),
            segments=judge.by_segment(own, standing, config, level, spread),
            calibration=calibration,
        )

    return _each(candidates, evidence)


def _each(
    candidates: Sequence[Candidate], evidence: Callable[[Candidate], Evidence]
) -> tuple[list[tuple[Candidate, Evidence | None]], dict[str, str]]:
    """Each candidate's evidence, and why some have none."""
    found: list[tuple[Candidate, Evidence | None]] = []
    failed: dict[str, str] = {}
    for candidate in candidates:
        try:
            found.append((candidate, evidence(candidate)))
        except FAILURES as error:
            if candidate.learner.name == BASELINE:
                raise
            failed[candidate.learner.name] = str(error) or repr(error)
    return found, failed


@dataclass(frozen=True, slots=True, eq=False)
class Log:
    """Judged rows over the arms in service, then those retired since.

    A row that a retired arm served stays: no policy of today chooses that arm, so it has weight 0
    and counts by its prediction alone. Dropping it would overstate every policy.

    ``standing_x`` is as the champion reads the rows. Those of one session or episode are a cluster.
    ``position`` is that of all rows, also of those that nobody can be judged by.
    """

    log: Interactions
    standing_x: NDArray[np.float64]
    rows: list[Interaction]
    in_service: NDArray[np.bool_]
    clusters: NDArray[np.int64] | None
    position: NDArray[np.int64]

    @classmethod
    def of(cls, rows: Sequence[Interaction], arms: tuple[str, ...], read: RoundLog) -> "Log":
        """The rows that at least one arm in service was eligible for."""
        serving = set(arms)
        usable = [row for row in rows if had_a_choice(row) and not serving.isdisjoint(row.eligible)]
        choices = {row.eligible for row in usable}
        retired = sorted({arm for eligible in choices for arm in eligible} - serving)
        log = arrange(usable, read.encoded(usable), (*arms, *retired))
        mask = np.zeros(len(arms) + len(retired), dtype=np.bool_)
        mask[: len(arms)] = True
        position = np.array([row.position for row in rows], dtype=np.int64)
        return cls(log, read.encoded(usable, 1), usable, mask, clusters_of(usable), position)

    @property
    def contexts(self) -> list[Context]:
        """What each row kept of its context."""
        return [row.context for row in self.rows]

    def predicted(self, pairs: Sequence[Pair]) -> tuple[NDArray[np.float64], Calibration | None]:
        """The reward model ``(n, K)``, corrected where two arms have answered a request."""
        plain = ope.reward_model(self.log, clusters=self.clusters)
        if not pairs:
            return plain, None
        ids = [row.decision_id for row in self.rows]
        return ope.calibrated(self.log, ids, plain, pairs, clusters=self.clusters)

    def valued(
        self, distribution: NDArray[np.float64], predicted: NDArray[np.float64]
    ) -> Evaluation:
        """What a policy of these probabilities, ``(n, K)``, earns, doubly robustly."""
        return ope.evaluate(
            self.log, distribution, "dr", predicted=predicted, clusters=self.clusters
        )

    def distribution(self, x: NDArray[np.float64], scorer: Scorer) -> NDArray[np.float64]:
        """A policy's probabilities on these rows, 0 for the arms retired since."""
        return self.spread(x, self.log.eligible, scorer, self.contexts)

    def spread(
        self,
        x: NDArray[np.float64],
        eligible: NDArray[np.bool_],
        scorer: Scorer,
        contexts: Sequence[Context],
    ) -> NDArray[np.float64]:
        """The same on any rows over these arms."""
        found = np.zeros(eligible.shape)
        serving = (eligible & self.in_service)[:, self.in_service]
        with np.errstate(over="ignore", invalid="ignore"):  # such a score is refused, with a reason
            found[:, self.in_service] = scorer.distribution(x, serving, mixes(contexts, scorer))
        return found

    def diagnostics(
        self, distribution: NDArray[np.float64], own: Evaluation, config: PolicyConfig
    ) -> tuple[Finding, ...]:
        """Whether these rows can say anything of a policy; what only its floor tries may be new."""
        gate = config.gate
        return (
            diagnostics.support(self.log, distribution, most=config.floor + gate.max_unsupported),
            diagnostics.concentration(own.weights, most=gate.max_concentration),
            diagnostics.arm_calibration(self.log),
            diagnostics.unjudged(self.position, most=gate.max_unjudged),
        )

    def seen(
        self,
        own: NDArray[np.float64],
        champion: NDArray[np.float64],
        fixed: NDArray[np.float64] | None,
    ) -> list[Finding]:
        """Whether the rows show what a policy would choose otherwise, ``(n, K)`` each."""
        others = {"champion": champion} | ({} if fixed is None else {"best fixed arm": fixed})
        return [gain_seen(self.log, own, other, name=name) for name, other in others.items()]

    def by_segment(
        self,
        own: Evaluation,
        standing: Evaluation,
        config: PolicyConfig,
        level: float,
        spread: float,
        *,
        interval: Interval = NORMAL,
    ) -> dict[str, Estimate]:
        """The difference of two evaluations in each of the largest segments."""
        feature, harm = config.segment, config.release.harm
        if feature is None:
            return {}
        names = np.array([str(context.get(feature, "")) for context in self.contexts])
        found: dict[str, Estimate] = {}
        values, counts = np.unique(names, return_counts=True)
        for at in sorted(np.argsort(-counts, kind="stable")[: harm.segments].tolist()):
            if counts[at] >= harm.min_rows and values[at]:
                rows = names == values[at]
                found[str(values[at])] = ope.difference(
                    part_of(own, rows),
                    part_of(standing, rows),
                    level=level,
                    reward_range=spread,
                    interval=interval,
                )
        return found


def part_of(evaluation: Evaluation, rows: NDArray[np.bool_]) -> Evaluation:
    """An evaluation on some of its rows."""
    influence = evaluation.influence[rows]
    return replace(
        evaluation,
        value=float(influence.mean()),
        influence=influence,
        weights=evaluation.weights[rows],
        clusters=None if evaluation.clusters is None else evaluation.clusters[rows],
    )


def had_a_choice(row: Interaction) -> bool:
    """Whether other arms could have served; what an expired bundle's fallback served says nothing.

    A row with one eligible arm is no gap in the log: every policy would have chosen that arm.
    """
    return row.propensity < 1.0 or len(row.eligible) == 1
