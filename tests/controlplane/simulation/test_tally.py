"""The tally: what was served beside fixed arms, chance and hindsight."""

import pytest

from controlplane.simulation import tally as tallies
from controlplane.simulation.tally import Tally, Truth, compare


def truth(request: int, domain: str, served: str, rewards: dict[str, float]) -> Truth:
    reward = rewards[served]
    return Truth(request, 0.1 * request, domain, served, "id", reward, 0.002, reward, rewards)


TRUTHS = (
    truth(0, "code", "a", {"a": 1.0, "b": 0.0}),
    truth(1, "code", "b", {"a": 0.8, "b": 0.2}),
    truth(2, "law", "b", {"a": 0.0, "b": 0.6}),
)


def test_a_comparison_is_of_the_same_requests_under_each_policy():
    found = compare(TRUTHS)
    assert found is not None
    assert found.requests == 3
    assert found.served == pytest.approx((1.0 + 0.2 + 0.6) / 3)
    assert found.fixed == {"a": pytest.approx(0.6), "b": pytest.approx(0.8 / 3)}
    assert found.best_fixed == "a"
    assert found.random == pytest.approx((0.6 + 0.8 / 3) / 2)
    assert found.per_domain == pytest.approx((1.8 + 0.6) / 3)


def test_nothing_is_compared_without_a_request():
    assert compare(()) is None
    assert Tally().since(0) is None
    assert Tally().as_json()["comparison"] is None


def test_a_tally_counts_and_means_over_all_it_was_given():
    found = Tally()
    for row in TRUTHS:
        found.add(row, latency_s=0.5)
    assert found.graded == 3
    assert found.arms == {"a": 1, "b": 2}
    assert found.mean_score == pytest.approx(0.6)
    assert found.mean_cost_usd == pytest.approx(0.002)
    assert found.as_json()["mean_latency_s"] == pytest.approx(0.5)
    since = found.since(1)
    assert since is not None
    assert since.requests == 2


def test_only_the_newest_truths_are_kept_while_the_counts_go_on(monkeypatch):
    monkeypatch.setattr(tallies, "MAX_TRUTHS", 5)
    found = Tally()
    for i in range(12):
        found.add(truth(i, "code", "a", {"a": 1.0}), latency_s=0.1)
    assert [row.request for row in found.truths] == [7, 8, 9, 10, 11]
    assert found.graded == 12
