"""What a learner of a policy is made from: its features, arms with their cards, and its reward."""

from collections.abc import Sequence

from controlplane.config import LearnerConfig, PolicyConfig
from learners.contract import Reading, Spec
from learners.records import Arm
from learners.rewards import RewardFunction


def spec_of(
    learner: LearnerConfig,
    config: PolicyConfig,
    arms: Sequence[Arm],
    reward: RewardFunction | None,
    seed: int,
) -> Spec:
    """The spec of one candidate.

    Raises:
        SpecError: There is no arm, or too many.
    """
    return Spec(
        schema=config.schema,
        arms=tuple(arm.name for arm in arms),
        params=learner.params,
        seed=seed,
        cards=tuple(arm.card for arm in arms),
        revisions=tuple(revision(arm) for arm in arms),
        reading=Reading() if reward is None else reading(reward),
    )


def reading(reward: RewardFunction) -> Reading:
    """How the reward is made of its parts."""
    return Reading(reward.part_names, tuple(reward.mix.tolist()), reward.offset)


def revision(arm: Arm) -> str:
    """What stands behind an arm's name: another model or endpoint is another revision."""
    return f"{arm.model} at {arm.endpoint}"
