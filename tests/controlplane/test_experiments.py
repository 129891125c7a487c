"""Experiments on a real database: from a free part of a layer to a verdict."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from controlplane import (
    agenda,
    experiment_numbers,
    experiments,
    planning,
    publishing,
    registry,
)
from controlplane.errors import ConflictError, GateError, InvalidError
from controlplane.experiment_config import (
    Covariate,
    ExperimentConfig,
    ExperimentGuardrail,
    ExperimentVariant,
)
from controlplane.registry import RewardBody
from edge import router
from edge.router import Decision
from feedback import ingest
from feedback.metrics import Metric
from feedback.said import Said
from learners.bundle import Bundle, unseal
from learners.contrasts import sums
from learners.ids import ENTROPY_BYTES, uuid7
from learners.lineup import units_of
from storage import experiment_rows, releases, versions
from storage.experiment_rows import Measure
from storage.releases import StoredExperiment, StoredFinding
from storage.work import EXPERIMENT, Due
from tests.controlplane.learning_world import NOW, PUBLISHER, SIGNER, lines
from tests.controlplane.release_world import FAILS, Way

SESSIONS = [f"session-{number}" for number in range(500)]
HALVES = (("old", 0.5, None), ("new", 0.5, 2))
Kept = Callable[[Decision], bool]


def declared(name: str = "prices", **more: Any) -> ExperimentConfig:
    sides = more.pop("variants", HALVES)
    variants = tuple(ExperimentVariant(*side) for side in sides)
    return ExperimentConfig(name=name, variants=variants, **{"difference": 0.1, **more})


class Lab(Way):
    """A world whose requests come in sessions."""

    def begin(self, config: ExperimentConfig, policy: str = "chat") -> StoredExperiment:
        with self.engine.begin() as connection:
            found = registry.find_policy(connection, self.world.project_id, policy)
            return experiments.create(
                connection, PUBLISHER, found, config, by="a test", now=self.now
            )

    def stop(self, experiment: StoredExperiment) -> StoredExperiment:
        with self.engine.begin() as connection:
            return experiments.stop(
                connection, PUBLISHER, self.world.project_id, experiment.id, by="a test",
                now=self.now,
            )  # fmt: skip

    def look_at(self, experiment: StoredExperiment) -> StoredExperiment:
        self.now += timedelta(days=1)
        looked = experiments.look(self.engine, PUBLISHER, experiment.policy_id, now=self.now)
        return next((one for one in looked if one.id == experiment.id), self.stored(experiment))

    def stored(self, experiment: StoredExperiment) -> StoredExperiment:
        with self.engine.connect() as connection:
            found = releases.find_experiment(connection, experiment.id)
        assert found is not None
        return found

    def bundle(self, policy: str = "chat") -> Bundle:
        with self.engine.connect() as connection:
            found = registry.find_policy(connection, self.world.project_id, policy)
            stored = versions.newest_bundle(connection, found.id)
        assert stored is not None
        return unseal(stored.body, [SIGNER.public_key()])

    def add_policy(self, name: str) -> None:
        with self.engine.begin() as connection:
            made = registry.put_policy(
                connection, PUBLISHER, self.world.project_id,
                name=name, pool="main", config=self.world.settings(), now=self.now,
            )  # fmt: skip
            registry.put_reward(connection, made, RewardBody("1 - error"), now=self.now)

    def send(
        self,
        count: int,
        *,
        sessions: int = 500,
        fails: Mapping[str, float] = FAILS,
        keep: Kept = lambda _made: True,
        told: bool = True,
        user: bool = False,
    ) -> list[Decision]:
        """Requests of sessions, as an edge decides them by the newest bundle; joined at once."""
        bundle, arms = self.bundle(), self.world.arms_in_service()
        rng = np.random.default_rng(self.served)
        decisions = []
        for number in range(count):
            at = self.now + timedelta(seconds=number / count)
            who = f"session-{int(rng.integers(sessions))}"
            made = router.decide(
                bundle,
                {"domain": ("maths", "prose")[number % 2], "length": float(rng.normal())},
                decision_id=str(uuid7(at, rng.bytes(ENTROPY_BYTES))),
                at=at,
                eligible=arms,
                session_id=None if user else who,
                user=who if user else None,
            )
            decisions.append(made)
        kept = [made for made in decisions if keep(made)]
        outcomes = [
            {
                "decision_id": made.decision_id,
                "at": made.at.isoformat(),
                "values": {
                    "error": float(rng.random() < fails[made.action]),
                    "cost_usd": 0.01,
                    "latency_s": float(rng.gamma(20.0, 0.05)),
                },
            }
            for made in kept
        ]
        self.served += count
        self.now += timedelta(seconds=1)
        rows = [{**asdict(made), "at": made.at.isoformat()} for made in kept]
        with self.engine.begin() as connection:
            project = self.world.project_id
            taken = ingest.record_decisions(connection, project, lines(rows), self.now)
            assert taken.accepted == len(kept), taken.rejected[:3]
            if told:
                ingest.record_outcomes(connection, project, lines(outcomes), self.now)
        self.now += timedelta(seconds=5)
        agenda.settle(self.engine, self.world.policy.id, self.now)
        return kept

    def say(self, decision_id: str, value: float, source: str, at: datetime) -> Any:
        said = Said(
            about="decision_id", identifier=decision_id, metric="score", value=value, key=None,
            occurred_at=at,
        )  # fmt: skip
        with self.engine.begin() as connection:
            return ingest.record_feedback(
                connection, self.world.project_id, said, source=source, now=at
            )

    def rewards(self) -> dict[str, float]:
        """The joined rewards, by decision."""
        with self.engine.connect() as connection:
            rows = connection.exec_driver_sql(
                "SELECT decision_id, reward FROM interactions WHERE reward IS NOT NULL"
            ).all()
        return {str(row[0]): row[1] for row in rows}


@pytest.fixture
def lab(engine: sa.Engine) -> Lab:
    found = Lab(engine)
    found.add_version("a")
    return found


def half_of_the_new(made: Decision) -> bool:
    return made.variant == "old" or int(made.unit or "0", 16) % 2 == 0


def variant_of(bundle: Bundle, session: str) -> tuple[str, str] | None:
    found = bundle.lineup.assign(units_of("d", session))
    return (found.split, found.variant) if found else None


def test_a_session_keeps_its_variant_on_two_edges_and_in_a_later_bundle(lab: Lab) -> None:
    lab.begin(declared(share=0.8))
    first, other_edge = lab.bundle(), lab.bundle()
    lab.world.retire("d")
    lab.begin(declared("tone", layer="tone"))
    later = lab.bundle()
    assert later.serial > first.serial
    found = {name: variant_of(first, name) for name in SESSIONS}
    assert found == {name: variant_of(other_edge, name) for name in SESSIONS}
    inside = {name: variant for name, variant in found.items() if variant is not None}
    assert inside == {name: variant_of(later, name) for name in inside}
    assert len(inside) / len(found) == pytest.approx(0.8, abs=0.08)  # four standard errors
    new = sum(variant == ("prices", "new") for variant in inside.values())
    assert new / len(inside) == pytest.approx(0.5, abs=0.1)
    served = {made.variant: made.version for made in lab.send(200) if made.split == "prices"}
    assert served == {"old": 1, "new": 2}


def test_a_better_variant_is_found_and_the_verdict_says_so_once_for_all(lab: Lab) -> None:
    begun = lab.begin(
        declared(guardrails=(ExperimentGuardrail("latency_s", 0.2),), segment="domain")
    )
    assert (begun.status, begun.spec["plan"]["plans"]) == ("running", [])
    assert "requests" in begun.spec["plan"]["note"] or "values" in begun.spec["plan"]["note"]
    lab.send(1_200)
    looked = lab.look_at(begun)
    assert looked == lab.stored(begun)
    result = looked.result
    assert result is not None
    assert (result["status"], result["winner"]) == ("better", "new")
    assert looked.state["decided"]["status"] == "better"
    [standing] = result["variants"]
    assert standing["difference"]["low"] > 0
    assert standing["guardrails"][0]["status"] == "holds"
    assert {one["segment"] for one in result["segments"]["new"]} == {"maths", "prose"}
    assert all(one["certain"] for one in result["segments"]["new"])
    assert result["counts"]["new"]["versions"].keys() == {"2"}
    assert result["counts"]["old"]["versions"].keys() == {"1"}
    assert looked.state["split_evidence"] < 100
    assert looked.ended_at is None


def test_the_databases_sums_are_those_of_the_rows(lab: Lab) -> None:
    begun = lab.begin(declared(covariate=Covariate("context", "length"), segment="domain"))
    made = lab.send(600, sessions=150)
    rewards = lab.rewards()
    with lab.engine.connect() as connection:
        ground = experiment_numbers.ground_of(connection, begun, lab.now)
        measure, higher = planning.measure_of(connection, lab.world.policy, "reward")
        found = experiment_rows.sums(connection, ground.scope, measure, "length")
        apart = experiment_rows.sums(connection, ground.scope, measure, by_segment=True)
    assert higher
    firsts: dict[str, float] = {}
    for one in sorted(made, key=lambda each: each.decision_id):
        firsts.setdefault(str(one.unit), float(one.context["length"]))  # type: ignore[arg-type]
    for variant in ("old", "new"):
        own = [one for one in made if one.variant == variant]
        known = {name: number for number, name in enumerate(firsts)}
        expected = sums(
            np.array([rewards[one.decision_id] for one in own]),
            np.array([known[str(one.unit)] for one in own]),
            np.array([firsts[str(one.unit)] for one in own]),
        )
        assert asdict(found[variant, ""]) == pytest.approx(asdict(expected))
        maths = [one for one in own if one.context["domain"] == "maths"]
        assert apart[variant, "maths"].rows == len(maths)
        assert apart[variant, "maths"].units == len({one.unit for one in maths})


def test_feedback_counts_as_amended_retracted_and_by_default_once_its_wait_is_over(
    lab: Lab,
) -> None:
    with lab.engine.begin() as connection:
        metric = Metric("score", range=(0.0, 1.0), wait_s=3_600.0, default=0.25)
        registry.put_metric(connection, lab.world.project_id, metric, now=lab.now)
    begun = lab.begin(declared(metric="score"))
    made = lab.send(3, sessions=1)
    lab.say(made[0].decision_id, 1.0, "judge", lab.now)
    lab.say(made[0].decision_id, 0.5, "judge", lab.now + timedelta(seconds=1))
    lab.say(made[0].decision_id, 0.9, "user", lab.now)
    taken = lab.say(made[1].decision_id, 1.0, "user", lab.now)
    with lab.engine.begin() as connection:
        ingest.retract(connection, lab.world.project_id, taken.feedback_id, lab.now)

    def read(now: datetime) -> tuple[int, float]:
        with lab.engine.connect() as connection:
            ground = experiment_numbers.ground_of(connection, begun, now)
            measure, _ = planning.measure_of(connection, lab.world.policy, "score")
            [found] = experiment_rows.sums(connection, ground.scope, measure).values()
        return found.rows, found.total

    assert read(lab.now) == pytest.approx((1, 0.7))
    assert read(lab.now + timedelta(hours=2)) == pytest.approx((3, 0.7 + 2 * 0.25))


def test_the_covariate_is_what_the_session_did_before_and_the_mean_where_it_was_not_there(
    lab: Lab,
) -> None:
    earlier = lab.send(300, sessions=120)
    lab.now += timedelta(hours=1)
    begun = lab.begin(declared(covariate=Covariate("before", "error")))
    made = lab.send(400, sessions=150)
    rewards = lab.rewards()
    before: dict[str, list[float]] = {}
    for one in earlier:
        before.setdefault(str(one.session_id), []).append(1.0 - rewards[one.decision_id])
    with lab.engine.connect() as connection:
        ground = experiment_numbers.ground_of(connection, begun, lab.now)
        covariate = experiment_rows.Before(Measure("error", "outcome"), 14.0)
        found = experiment_rows.sums(
            connection, ground.scope, Measure("cost_usd", "outcome"), covariate
        )
    sessions = {str(one.session_id): str(one.variant) for one in made}
    known = {name: float(np.mean(before[name])) for name in sessions if name in before}
    assert 0 < len(known) < len(sessions)
    filled = {name: known.get(name, float(np.mean(list(known.values())))) for name in sessions}
    for variant in ("old", "new"):
        own = [filled[name] for name, side in sessions.items() if side == variant]
        assert found[variant, ""].units == len(own)
        assert found[variant, ""].c == pytest.approx(sum(own))
        assert found[variant, ""].cc == pytest.approx(sum(one * one for one in own))


def test_a_split_that_is_not_as_declared_ends_the_verdict_before_anything_is_joined(
    lab: Lab,
) -> None:
    begun = lab.begin(declared())
    lab.send(1_500, sessions=1_500, told=False, keep=half_of_the_new)
    serial = lab.bundle().serial
    looked = lab.look_at(begun)
    assert looked.result is not None
    assert (looked.result["status"], looked.result["variants"]) == ("stopped_by_srm", [])
    assert looked.result["split_p_value"] < 1e-3
    assert (looked.status, looked.ended_at) == ("ended", lab.now)
    assert "not chance" in looked.state["reason"]
    assert lab.bundle().serial == serial + 1
    assert lab.bundle().lineup.empty
    assert lab.look_at(begun).state["looks"] == 1
    (finding,) = findings(lab)
    assert (finding.monitor, finding.severity, finding.reaction) == ("split", "alarm", "stop")
    assert finding.summary.endswith("; the verdict stops; the experiment ends")
    assert finding.numbers["value"] == looked.result["split_p_value"] < finding.numbers["bound"]
    assert finding.numbers["units"]["old"] > finding.numbers["units"]["new"]


def findings(lab: Lab) -> list[StoredFinding]:
    with lab.engine.connect() as connection:
        return releases.list_findings(connection, lab.world.policy.id)


@pytest.mark.parametrize(("auto_stop", "reaction"), [(True, "stop"), (False, "none")])
def test_a_broken_guardrail_is_a_finding_once_with_its_numbers(
    lab: Lab, *, auto_stop: bool, reaction: str
) -> None:
    guardrails = (ExperimentGuardrail("error", 0.05),)
    sides = (("old", 0.5, lab.add_version("a")), ("new", 0.5, lab.add_version("b")))
    asked = declared(variants=sides, metric="cost_usd", guardrails=guardrails, auto_stop=auto_stop)
    begun = looked = lab.begin(asked)
    for _ in range(2):
        lab.send(800, fails={"a": 0.05, "b": 0.6, "c": 0.6, "d": 0.6})
        looked = lab.look_at(begun)
    assert looked.result is not None
    assert looked.result["status"] == "guardrail_broken"
    (finding,) = findings(lab)
    assert (finding.monitor, finding.severity, finding.reaction) == ("guardrail", "alarm", reaction)
    assert "new breaks the guardrail error" in finding.summary
    assert finding.summary.endswith("the experiment ends") == auto_stop
    told = {name: finding.numbers[name] for name in ("metric", "variant", "experiment", "bound")}
    assert told == {"metric": "error", "variant": "new", "experiment": "prices", "bound": 0.05}
    assert finding.numbers["low"] > 0.05


def test_where_nothing_ends_by_itself_the_verdict_does_and_the_split_stays(lab: Lab) -> None:
    begun = lab.begin(declared(auto_stop=False))
    lab.send(1_500, sessions=1_500, told=False, keep=half_of_the_new)
    looked = lab.look_at(begun)
    assert findings(lab)[0].summary.endswith("; the verdict stops")
    assert (looked.status, looked.ended_at, looked.state["look_at"]) == ("running", None, None)
    assert [split.name for split in lab.bundle().lineup.splits] == ["prices"]
    assert lab.look_at(begun).state["looks"] == 1


def test_a_worse_variant_is_taken_out_of_service(lab: Lab) -> None:
    worse = lab.add_version("b")
    begun = lab.begin(declared(variants=(("old", 0.5, 2), ("new", 0.5, worse))))
    lab.send(800, fails={"a": 0.1, "b": 0.6, "c": 0.6, "d": 0.6})
    looked = lab.look_at(begun)
    assert looked.result is not None
    assert (looked.result["status"], looked.status) == ("worse", "ended")
    assert lab.bundle().lineup.empty


def test_in_a_a_mode_all_variants_are_the_champions_and_nothing_is_found(lab: Lab) -> None:
    begun = lab.begin(declared(aa=True, variants=(("a", 0.5), ("b", 0.25), ("c", 0.25))))
    made = lab.send(700)
    assert {one.version for one in made} == {1}
    assert {one.variant for one in made} == {"a", "b", "c"}
    looked = lab.look_at(begun)
    assert looked.result is not None
    assert (looked.result["status"], looked.result["winner"]) == ("running", None)
    assert "decided" not in looked.state
    with pytest.raises(InvalidError, match="set aa"):
        lab.begin(declared("again", layer="b", variants=(("a", 0.5), ("b", 0.5))))


def test_experiments_of_one_layer_share_no_session_across_policies(lab: Lab) -> None:
    lab.add_policy("mail")
    first = lab.begin(declared("prices", share=0.5, holdout=0.1))
    second = lab.begin(
        declared("tone", share=0.4, aa=True, variants=(("a", 0.5), ("b", 0.5))), policy="mail"
    )
    parts = [(one.spec["split"]["start"], one.spec["split"]["end"]) for one in (first, second)]
    assert parts == [(0.0, 0.5), (0.5, 0.9)]
    chat, mail = lab.bundle(), lab.bundle("mail")
    seen = {name: (variant_of(chat, name), variant_of(mail, name)) for name in SESSIONS}
    assert not [name for name, (one, two) in seen.items() if one and two]
    held_out = sum(one is None and two is None for one, two in seen.values())
    assert held_out / len(seen) == pytest.approx(0.1, abs=0.054)  # four standard errors
    with pytest.raises(ConflictError, match=r"no free part of 0\.1 below 0\.9"):
        lab.begin(declared("more", share=0.1))
    with pytest.raises(ConflictError, match="hands out sessions"):
        lab.begin(declared("more", share=0.05, unit="user"))
    with pytest.raises(ConflictError, match="holds a part of it"):
        lab.begin(declared("more", share=0.05, holdout=0.2))
    lab.stop(first)
    lab.begin(declared("more", share=0.1))
    later = lab.bundle()
    left = {found and found[0] for found in (variant_of(later, name) for name in SESSIONS)}
    assert left == {None, "more"}


def test_stopping_publishes_a_bundle_without_the_split_and_looks_once_more(lab: Lab) -> None:
    begun = lab.begin(declared())
    lab.send(600)
    stopped = lab.stop(begun)
    assert lab.bundle().lineup.empty
    assert (stopped.status, stopped.ended_at) == ("stopped", lab.now)
    assert stopped.state["reason"] == "stopped by a test"
    assert {made.version for made in lab.send(50)} == {1}
    last = lab.look_at(begun)
    assert last.result is not None
    assert last.result["counts"]["new"]["decisions"] > 200
    assert (last.status, last.state["look_at"], last.state["looks"]) == ("stopped", None, 1)
    with pytest.raises(ConflictError, match="has ended"):
        lab.stop(begun)
    with pytest.raises(ConflictError, match="choose a new name"):
        lab.begin(declared())


def test_a_version_that_has_not_passed_takes_part_only_where_that_is_said(lab: Lab) -> None:
    number = lab.add_version("c")
    with lab.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM verdicts")
    sides = (("old", 0.5, None), ("new", 0.5, number))
    with pytest.raises(GateError, match="no verdict yet"):
        lab.begin(declared(variants=sides))
    lab.begin(declared(variants=sides, unproven=True))
    assert [one.version for one in lab.bundle().lineup.challengers] == [number]
    with pytest.raises(InvalidError, match="version 99 does not exist"):
        lab.begin(declared("x", layer="x", variants=(*sides[:1], ("new", 0.5, 99)), unproven=True))


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"metric": "nothing"}, "metric"),
        ({"guardrails": (ExperimentGuardrail("nothing", 1.0),)}, "guardrails"),
        ({"covariate": Covariate("before", "reward"), "unit": "request"}, "covariate"),
        ({"covariate": Covariate("before", "reward"), "unit": "user"}, "covariate"),
        ({"covariate": Covariate("context", "domain")}, "covariate"),
        ({"segment": "nothing"}, "segment"),
        ({"segment": "length"}, "segment"),
    ],
)
def test_what_can_not_be_read_is_refused_by_field(
    lab: Lab, more: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidError) as refused:
        lab.begin(declared(**more))
    assert refused.value.field == field
    assert lab.bundle().lineup.empty


def test_a_user_is_known_again_by_the_salt_of_an_a_a_experiment_before(lab: Lab) -> None:
    aa = declared("before", aa=True, unit="user", salt="s", variants=(("a", 0.5), ("b", 0.5)))
    begun = lab.begin(aa)
    lab.send(500, sessions=100, user=True)
    lab.stop(begun)
    lab.now += timedelta(hours=1)
    covariate = Covariate("before", "reward")
    second = lab.begin(declared(unit="user", salt="s", covariate=covariate))
    assert second.spec["earlier"] == ["before"]
    lab.send(500, sessions=100, user=True)
    looked = lab.look_at(second)
    assert looked.result is not None
    assert looked.result["means"]["reward"]["new"]["units"] > 30


def test_a_changed_reward_ends_the_experiment_with_its_last_verdict(lab: Lab) -> None:
    begun = lab.begin(declared())
    lab.send(300)
    looked = lab.look_at(begun)
    with lab.engine.begin() as connection:
        registry.put_reward(connection, lab.world.policy, RewardBody("2 - error"), now=lab.now)
    ended = lab.look_at(begun)
    assert (ended.status, ended.result) == ("ended", looked.result)
    assert "reward has changed" in ended.state["reason"]


def test_a_variant_that_becomes_the_champion_ends_the_experiment(lab: Lab) -> None:
    begun = lab.begin(declared())
    lab.send(300)
    looked = lab.look_at(begun)
    with lab.engine.begin() as connection:
        publishing.publish(
            connection, PUBLISHER, lab.world.policy.id, 2, reason="a test", now=lab.now
        )
    assert {made.version for made in lab.send(50)} == {2}
    ended = lab.look_at(begun)
    assert (ended.status, ended.result) == ("ended", looked.result)
    assert "version 2 has become the champion" in ended.state["reason"]
    assert lab.bundle().lineup.empty


def test_a_look_is_work_that_comes_due_and_becomes_rarer(lab: Lab) -> None:
    begun = lab.begin(declared(look_s=60))

    def due(now: datetime) -> list[str]:
        with lab.engine.begin() as connection:
            return [one.kind for one in agenda.find(connection, now)]

    assert EXPERIMENT not in due(begun.started_at + timedelta(seconds=59))
    assert EXPERIMENT in due(begun.started_at + timedelta(seconds=61))
    looked = lab.look_at(begun)
    pause = datetime.fromisoformat(looked.state["look_at"]) - lab.now
    assert pause / (lab.now - begun.started_at) == pytest.approx(0.05)
    agenda.perform(lab.engine, PUBLISHER, Due(begun.policy_id, EXPERIMENT))
    again = lab.stored(begun).state
    assert again["looks"] == 2
    told = [datetime.fromisoformat(again[name]) for name in ("looked_at", "look_at")]
    assert told[1] - told[0] == timedelta(days=1)


def test_a_plan_is_made_of_the_policys_own_traffic_and_spread(lab: Lab) -> None:
    with lab.engine.connect() as connection:
        asked = planning.Asked(difference=0.05)
        with pytest.raises(InvalidError) as refused:
            planning.estimate(connection, lab.world.policy, asked, lab.now)
        assert refused.value.field == "deviation"
    lab.send(1_000)
    with lab.engine.connect() as connection:
        told = planning.estimate(connection, lab.world.policy, asked, lab.now)
        fine = planning.estimate(
            connection, lab.world.policy, replace(asked, difference=0.025), lab.now
        )
    assert told["requests_per_day"] == 24_000  # 1,000 in the first hour
    assert told["deviation"] == pytest.approx(np.std(list(lab.rewards().values()), ddof=1))
    assert told["exploration"] == pytest.approx(1.0)
    assert [one["method"] for one in told["plans"]] == ["ab", "fixed", "anytime"]
    split, once, always = (one["decisions"] for one in told["plans"])
    assert once < always
    assert fine["plans"][0]["decisions"] / split == pytest.approx(4.0, rel=0.15)
    assert told["plans"][0]["days"] == pytest.approx(split / 24_000)
    begun = lab.begin(declared(difference=0.05))
    assert begun.spec["planned_rows"] == begun.spec["plan"]["plans"][0]["decisions"] == split
    assert lab.now > NOW


def test_an_experiment_leaves_a_canary_that_is_under_way_some_requests(engine: sa.Engine) -> None:
    lab = Lab(engine)
    number = lab.add_version()
    lab.start(lab.add_version())
    with pytest.raises(ConflictError, match="release 1 is under way"):
        lab.begin(declared(variants=(("old", 0.5, None), ("new", 0.5, number))))
    lab.begin(declared(variants=(("old", 0.5, None), ("new", 0.5, number)), share=0.5))
