"""What a release is begun with."""

from controlplane.release_config import GUARDRAILS, Guardrail, ReleaseConfig
from controlplane.release_plan import guardrails_of
from learners.rewards import parse

PRICED = parse("score - 20*cost_usd").as_json()
PLAIN = parse("score").as_json()


def names(guardrails: tuple[Guardrail, ...]) -> list[str]:
    return [one.name for one in guardrails]


def test_a_cost_that_the_reward_prices_is_no_guardrail_unless_it_was_asked_for() -> None:
    assert names(guardrails_of(ReleaseConfig(), PRICED)) == ["error", "latency_s p95"]
    assert guardrails_of(ReleaseConfig(), PLAIN) == GUARDRAILS
    assert guardrails_of(ReleaseConfig(), None) == GUARDRAILS
    asked = ReleaseConfig(guardrails=(Guardrail("cost_usd", margin=0.1),))
    assert names(guardrails_of(asked, PRICED)) == ["cost_usd"]
