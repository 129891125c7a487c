import csv
import gzip
import json
import os
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from controlplane.replay import DEFAULT_REWARD, main
from controlplane.replay_baselines import best_fixed, compare, judge
from controlplane.replay_loop import (
    Plan,
    ReplayError,
    _interactions,
    _schedule,
    _Served,
    prepare,
    run_seed,
)
from controlplane.simulation.tables import read_table, split
from learners import catalogue
from learners.contract import Learner

ARMS = ("cheap", "dear", "poor")
COSTS = {"cheap": 0.001, "dear": 0.01, "poor": 0.0005}
KEYS = {
    "learner",
    "arms",
    "events",
    "seeds",
    "reward",
    "cost_ref",
    "online_reward",
    "test_reward",
    "test_score",
    "test_cost_usd",
    "baselines",
    "wall_s",
    "interactions_per_s",
}
VALUES = {"test_reward", "test_score", "test_cost_usd"}


def write_table(
    folder: Path,
    name: str = "t",
    *,
    n: int = 400,
    seed: int = 0,
    drop: tuple[str, ...] = (),
    cost_factor: float = 1.0,
) -> tuple[str, str]:
    """Maths needs the dear arm; elsewhere the cheap one is as good; the poor one never is."""
    luck = random.Random(seed)
    queries, outcomes = folder / f"{name}.queries.csv", folder / f"{name}.outcomes.csv.gz"
    query_rows, outcome_rows = [], []
    for i in range(n):
        domain = luck.choice(["law", "maths"])
        text = f"{domain} question {i}" + (" 1 + 2 = 3" if domain == "maths" else "")
        query_rows.append({"query_id": f"{name}{i}", "query_text": text, "domain": domain})
        for arm in ARMS:
            good = {"cheap": 0.2 if domain == "maths" else 0.9, "dear": 0.9, "poor": 0.1}[arm]
            score = 1.0 if luck.random() < good else 0.0
            cost = cost_factor * COSTS[arm]
            row = {"query_id": f"{name}{i}", "model": arm, "score": score, "cost_usd": cost}
            outcome_rows.append(row)
    for path, rows in ((queries, query_rows), (outcomes, outcome_rows)):
        opener = gzip.open if path.suffix == ".gz" else open
        columns = [column for column in rows[0] if column not in drop]
        with opener(path, "wt", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
    return str(queries), str(outcomes)


@pytest.fixture(name="table")
def _table(tmp_path):
    queries, outcomes = write_table(tmp_path)
    return ["--queries", queries, "--outcomes", outcomes]


def run(capsys, *argv: str):
    assert main([*argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("learner", catalogue.NAMES)
def test_every_learner_is_replayed_into_one_object(capsys, table, learner):
    found = run(capsys, *table, "--learner", learner, "--seeds", "2", "--probes", "20")
    assert set(found) >= KEYS
    assert found["learner"] == learner
    assert found["arms"] == list(ARMS)
    assert found["reward"] == DEFAULT_REWARD
    assert found["events"] + found["test_queries"] == 400
    for name in ("online_reward", "test_reward"):
        assert len(found[name]["per_seed"]) == 2
        assert found[name]["mean"] == pytest.approx(np.mean(found[name]["per_seed"]))
    names = {"best_fixed", "best_fixed_probes", "per_domain", "random", "full_information"}
    assert set(found["baselines"]) == names
    assert all(set(value) == VALUES for value in found["baselines"].values())


def test_a_router_that_sees_the_domain_beats_the_best_fixed_arm(capsys, table):
    # Per domain the better arm is worth about 0.2 more than the best for both; 5 seeds agree.
    found = run(capsys, *table, "--learner", "linucb")
    fixed = found["baselines"]["best_fixed"]["test_reward"]
    assert found["baselines"]["per_domain"]["test_reward"] > fixed
    assert found["baselines"]["full_information"]["test_reward"] > fixed
    assert min(found["test_reward"]["per_seed"]) > fixed
    assert found["baselines"]["random"]["test_reward"] < fixed


def test_the_same_command_measures_the_same(capsys, table):
    asked = [*table, "--learner", "vw", "--seeds", "2", "--delay", "3:9"]
    first, second = run(capsys, *asked), run(capsys, *asked)
    for name in ("online_reward", "test_reward", "test_score", "test_cost_usd", "baselines"):
        assert first[name] == second[name]


ALIGNED = {
    "terms": [{"metric": "score"}, {"metric": "cost_usd", "weight": -0.2, "align": "score"}],
    "offset": 0.1,
}


def in_file(folder: Path, body: object, name: str = "reward.json") -> str:
    (folder / name).write_text(json.dumps(body))
    return f"@{folder / name}"


def test_a_reward_of_a_file_is_aligned_to_the_training_side_and_no_unit_matters(capsys, tmp_path):
    def asked(factor: float) -> list[str]:
        folder = tmp_path / f"{factor:g}"
        folder.mkdir(exist_ok=True)
        queries, outcomes = write_table(folder, cost_factor=factor)
        return ["--queries", queries, "--outcomes", outcomes, "--learner", "linucb", "--seeds", "2"]

    reward = in_file(tmp_path, ALIGNED)
    usd, cents = (run(capsys, *asked(f), "--probes", "9", "--reward", reward) for f in (1.0, 100.0))
    for name in ("online_reward", "test_reward"):
        assert cents[name]["per_seed"] == pytest.approx(usd[name]["per_seed"], abs=1e-9)
    assert cents["test_score"] == usd["test_score"]
    assert cents["test_cost_usd"]["mean"] == pytest.approx(100 * usd["test_cost_usd"]["mean"])
    spread = [one["reward"]["statistics"]["cost_usd"] for one in (usd, cents)]
    assert spread[0]["n"] == spread[1]["n"] == 3 * usd["events"]
    assert spread[1]["std"] == pytest.approx(100 * spread[0]["std"])
    # What was measured can be given back.
    again = run(capsys, *asked(1.0), "--reward", in_file(tmp_path, cents["reward"]))
    assert again["reward"] == cents["reward"]
    assert main([*asked(1.0), "--reward", reward]) == 0
    assert '"align": "score"' in capsys.readouterr().out


def test_a_plain_reward_of_a_file_is_worth_what_its_expression_is(capsys, tmp_path, table):
    asked = [*table, "--learner", "best_fixed", "--seeds", "2"]
    terms = {"terms": [{"metric": "score"}, {"metric": "cost_usd", "weight": -0.2, "scale": 0.01}]}
    of_file = run(capsys, *asked, "--reward", in_file(tmp_path, terms))
    of_text = run(capsys, *asked, "--reward", "score - 0.2*cost_usd/0.01")
    assert of_file["test_reward"] == of_text["test_reward"]


def test_a_gate_counts_in_a_replay(capsys, tmp_path, table):
    gated = {
        "gates": [{"metric": "score", "at_least": 1, "reward": -1}],
        "terms": [{"metric": "cost_usd", "weight": 0, "default": 0}],
        "offset": 1,
    }
    asked = [*table, "--learner", "best_fixed", "--seeds", "2"]
    found = run(capsys, *asked, "--reward", in_file(tmp_path, gated))
    score = found["test_score"]["mean"]
    assert found["test_reward"]["mean"] == pytest.approx(score - (1 - score))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("[]", "cannot be read"),
        ('{"expression": "score"}', "unknown field 'expression'"),
        ('{"terms": [{"metric": "score", "align": "x"}]}', "align is 'x'"),
        ('{"terms": [{"metric": "latency_s", "normaliser": "std"}]}', "'latency_s' has 0 values"),
        ('{"terms": [{"metric": "speed"}]}', "no column 'speed'"),
    ],
)
def test_a_file_that_holds_no_reward_is_refused(capsys, tmp_path, table, text, said):
    (tmp_path / "reward.json").write_text(text)
    asked = [*table, "--learner", "best_fixed", "--reward", f"@{tmp_path / 'reward.json'}"]
    assert main(asked) == 2
    assert said in capsys.readouterr().err


def test_a_reward_file_that_is_not_there_is_named(capsys, table):
    assert main([*table, "--learner", "best_fixed", "--reward", "@/no/such.json"]) == 2
    assert "/no/such.json" in capsys.readouterr().err


def test_cost_ref_is_the_mean_cost_of_the_arm_with_the_best_score(capsys, table):
    found = run(capsys, *table, "--learner", "best_fixed", "--seeds", "1")
    assert found["cost_ref"] == pytest.approx(COSTS["dear"])


def test_test_files_are_judged_on_and_not_trained_on(capsys, tmp_path, table):
    queries, outcomes = write_table(tmp_path, "held", n=60, seed=5)
    tests = ["--test-queries", queries, "--test-outcomes", outcomes]
    found = run(capsys, *table, *tests, "--learner", "best_fixed", "--seeds", "1")
    assert (found["events"], found["test_queries"]) == (400, 60)


def test_arms_can_be_chosen_in_an_order(capsys, table):
    found = run(capsys, *table, "--learner", "best_fixed", "--arms", "poor,cheap", "--seeds", "1")
    assert found["arms"] == ["poor", "cheap"]


@pytest.mark.parametrize("drop", [("domain",), ("query_text",), ("domain", "query_text")])
def test_a_column_that_a_table_lacks_is_done_without(capsys, tmp_path, drop):
    queries, outcomes = write_table(tmp_path, drop=drop)
    asked = ["--queries", queries, "--outcomes", outcomes, "--learner", "linucb", "--seeds", "1"]
    found = run(capsys, *asked)
    assert (found["baselines"]["per_domain"] is None) == ("domain" in drop)
    assert found["test_reward"]["se"] is None


def test_a_table_without_costs_needs_a_reward_without_them(capsys, tmp_path):
    queries, outcomes = write_table(tmp_path, drop=("cost_usd",))
    asked = ["--queries", queries, "--outcomes", outcomes, "--learner", "best_fixed"]
    assert main(asked) == 2
    assert "COST_REF" in capsys.readouterr().err
    assert run(capsys, *asked, "--reward", "score")["test_cost_usd"]["mean"] == 0


def test_without_json_a_table_is_printed(capsys, table):
    assert main([*table, "--learner", "best_fixed", "--seeds", "2"]) == 0
    printed = capsys.readouterr().out
    assert "test reward" in printed
    assert "full_information" in printed
    assert "standard error of the test reward" in printed
    names = [line.split("  ")[0] for line in printed.splitlines()]
    assert names.count("best_fixed") == names.count("baseline best_fixed") == 1


def test_one_seed_is_one_seed_and_has_no_standard_error(capsys, table):
    assert main([*table, "--learner", "best_fixed", "--seeds", "1", "--probes", "1"]) == 0
    printed = capsys.readouterr().out
    assert "1 seed, 1 probe;" in printed
    assert "standard error" not in printed


def test_files_that_were_swapped_are_said_to_be(capsys, table):
    swapped = ["--queries", table[3], "--outcomes", table[1], "--learner", "best_fixed"]
    assert main(swapped) == 2
    said = capsys.readouterr().err
    assert f"{table[3]}: this is an outcomes file" in said
    assert "give it as --outcomes" in said


def spoil(path: str, line: int, column: int, value: str) -> None:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))
    rows[line - 1][column] = value
    with gzip.open(path, "wt", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows(rows)


def blank_costs(path: str, arm: str, rows: int) -> None:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as stream:
        found = list(csv.DictReader(stream))
    for row in [row for row in found if row["model"] == arm][:rows]:
        row["cost_usd"] = ""
    with gzip.open(path, "wt", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(found[0]))
        writer.writeheader()
        writer.writerows(found)


def test_a_blank_cost_is_not_counted_as_free(capsys, table):
    asked = [*table, "--learner", "best_fixed", "--seeds", "1"]
    blank_costs(table[3], "dear", 12)
    found = run(capsys, *asked)
    assert (found["without_cost"], found["blank_costs"]) == (12, 12)
    assert found["events"] + found["test_queries"] == 400 - 12
    assert found["cost_ref"] == pytest.approx(COSTS["dear"])
    assert main(asked) == 0
    assert "12 queries left out: an arm's cost is blank" in capsys.readouterr().out


def test_blank_costs_stay_where_the_reward_does_not_need_them_and_are_told(capsys, table):
    asked = [*table, "--learner", "best_fixed", "--seeds", "1", "--reward", "score"]
    blank_costs(table[3], "dear", 12)
    found = run(capsys, *asked)
    assert (found["without_cost"], found["blank_costs"]) == (0, 12)
    assert found["events"] + found["test_queries"] == 400
    assert main(asked) == 0
    assert "12 blank costs, counted as 0" in capsys.readouterr().out


@pytest.mark.parametrize("reward", [DEFAULT_REWARD, "score - cost_usd"])
def test_a_reward_of_costs_that_are_mostly_blank_is_refused_with_their_number(
    capsys, table, reward
):
    asked = [*table, "--learner", "best_fixed", "--seeds", "1", "--reward", reward]
    blank_costs(table[3], "dear", 400)
    assert main(asked) == 2
    said = capsys.readouterr().err
    assert "cost_usd, which is blank in" in said
    assert "of 'dear'" in said
    assert main([*asked, "--arms", "cheap,poor"]) == 0


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ((7, 2, "often"), "row 7: column score: 'often'"),
        ((8, 2, "1.5"), "row 8: column score: '1.5'"),
        ((9, 2, "nan"), "row 9: column score: 'nan'"),
        ((10, 3, "-1"), "row 10: column cost_usd: '-1'"),
        ((11, 0, "nobody"), "row 11: column query_id: 'nobody'"),
        ((1, 2, "points"), "row 1: column score: is missing"),
    ],
)
def test_a_bad_file_is_named_with_row_and_column(capsys, table, cell, said):
    spoil(table[3], *cell)
    assert main([*table, "--learner", "best_fixed"]) == 2
    error = capsys.readouterr()
    assert error.out == ""
    assert table[3] in error.err
    assert said in error.err
    assert "Traceback" not in error.err


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--learner", "oracle"], "'oracle'"),
        (["--learner", "vw", "--arms", "cheap,nobody"], "'nobody'"),
        (["--learner", "vw", "--reward", "score*score"], "not linear"),
        (["--learner", "vw", "--reward", "speed"], "'speed'"),
        (["--learner", "vw", "--delay", "soon"], "'soon'"),
        (["--learner", "vw", "--delay", "9:3"], "9:3"),
        (["--learner", "vw", "--probes", "-1"], "probes=-1"),
        (["--learner", "vw", "--seeds", "0"], "seeds=0"),
        (["--learner", "vw", "--param", "rate"], "name=value"),
        (["--learner", "vw", "--param", "speed=1"], "'speed'"),
        (["--learner", "vw", "--test-queries", "x"], "both"),
        (["--learner", "vw", "--queries", "/no/such.csv"], "/no/such.csv"),
        (["--learner", "vw", "--prior", "/no/such.json"], "/no/such.json"),
    ],
)
def test_a_replay_that_makes_no_sense_is_refused(capsys, table, asked, said):
    assert main([*table, *asked]) == 2
    assert said in capsys.readouterr().err


@pytest.fixture(name="pool_of_four")
def _pool_of_four(tmp_path) -> list[str]:
    """A table of arms a to d whose answers are good ever more often, by .1 to .7, and a prior."""
    luck = random.Random(3)
    queries, outcomes = ["query_id"], ["query_id,model,score"]
    for i in range(300):
        queries.append(f"q{i}")
        for arm, good in zip("abcd", (0.1, 0.3, 0.5, 0.7), strict=True):
            outcomes.append(f"q{i},{arm},{int(luck.random() < good)}")
    for name, lines in (("q.csv", queries), ("o.csv", outcomes)):
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    files = ["--queries", str(tmp_path / "q.csv"), "--outcomes", str(tmp_path / "o.csv")]
    return [*files, "--reward", "score", "--seeds", "3"]


def test_right_ratings_earn_more_online_and_reversed_ones_change_nothing(
    capsys, tmp_path, pool_of_four
):
    right = {"ratings": dict(zip("abcd", (1000, 1100, 1200, 1300), strict=True)), "count": 40}
    wrong = {"ratings": dict(zip("abcd", (1300, 1200, 1100, 1000), strict=True)), "count": 40}
    asked = [*pool_of_four, "--learner", "linucb"]
    none = run(capsys, *asked)
    rated, reversed_ = (
        run(capsys, *asked, "--prior", in_file(tmp_path, body).removeprefix("@"))
        for body in (right, wrong)
    )
    assert none["prior"] is None
    assert rated["prior"] == right
    assert rated["online_reward"]["mean"] > none["online_reward"]["mean"]
    # What says nothing leaves only this: the learner learns its log anew at each refresh.
    assert reversed_["online_reward"]["mean"] == pytest.approx(
        none["online_reward"]["mean"], abs=0.02
    )


@pytest.mark.parametrize(
    ("learner", "body", "said"),
    [
        ("best_fixed", {"ratings": dict.fromkeys("abcd", 1)}, "best_fixed takes no prior"),
        ("vw", {"ratings": dict.fromkeys("abc", 1)}, "prior.ratings are of 3 arms: give 4"),
        ("vw", {"rating": {}}, "rating"),
        ("vw", [], "object"),
    ],
)
def test_a_prior_that_cannot_be_replayed_is_refused(capsys, pool_of_four, learner, body, said):
    path = in_file(Path(pool_of_four[1]).parent, body).removeprefix("@")
    assert main([*pool_of_four, "--learner", learner, "--prior", path]) == 2
    assert said in capsys.readouterr().err


@pytest.fixture(name="course")
def _course(table):
    return prepare(*split(read_table(Path(table[1]), Path(table[3]))), DEFAULT_REWARD)


def test_probes_pay_for_all_arms(course):
    # The same draws each time, so only the price of the probes differs.
    learner = catalogue.load("best_fixed")
    n = len(course.train.x)
    plan = Plan("best_fixed", probes=n, params={"exploration": "uniform"})
    paid = run_seed(plan, course, learner, 0).online_reward
    free = run_seed(replace(plan, probes=0), course, learner, 0).online_reward
    # Drawn evenly, the others cost two thirds of the sum of all, in units of 0.2 / COST_REF.
    others = sum(COSTS.values()) - np.mean(list(COSTS.values()))
    assert free - paid == pytest.approx(0.2 * others / 0.01, abs=0.02)


def test_a_probe_teaches_every_arm_and_a_request_the_served_one(course):
    served = _Served(
        query=np.array([5, 3, 8]),
        probe=np.array([True, False, False]),
        action=np.array([1, 2, 0]),
        propensity=np.array([0.2, 0.5, 0.25]),
    )
    found = _interactions(course, served, np.array([2, 0, 1]))
    assert found.action.tolist() == [0, 0, 1, 2, 2]
    assert found.propensity.tolist() == [0.25, 1.0, 1.0, 1.0, 0.5]
    expected = course.train.rewards[[8, 5, 5, 5, 3], [0, 0, 1, 2, 2]]
    assert found.reward.tolist() == expected.tolist()


@pytest.mark.parametrize("delay", [0, 1, 7, 1000])
def test_a_reward_reaches_the_learner_after_its_delay_and_once(delay):
    n = 100
    told: list[int] = []
    served = 0
    for start, stop, arrived in _schedule(np.full(n, delay), 8):
        assert start == served
        served = stop
        if stop < n:
            assert (arrived + 1 + delay <= stop).all()
            waiting = np.setdiff1d(np.arange(stop), [*told, *arrived])
            assert (waiting + 1 + delay > stop).all()
        told += arrived.tolist()
    assert served == n
    assert sorted(told) == list(range(n))


def test_a_delay_past_the_end_leaves_the_whole_pass_to_the_first_scorer(course):
    learner = catalogue.load("best_fixed")
    late = run_seed(Plan("best_fixed", delay=(10_000, 10_000)), course, learner, 0)
    even = np.full(course.train.rewards.shape, 1 / 3)
    # 200 draws: the standard error of the mean is about 0.035.
    assert late.online_reward == pytest.approx(judge(course.train, even).test_reward, abs=0.15)
    assert late.interactions == len(course.train.x)


def test_best_fixed_is_chosen_on_the_training_side(course):
    found = compare(course.train, course.test)["best_fixed"]
    chosen = course.train.rewards.mean(axis=0).argmax()
    assert found is not None
    assert found.test_reward == pytest.approx(course.test.rewards[:, chosen].mean())
    assert best_fixed(course.train.rewards, 2).argmax(axis=1).tolist() == [chosen, chosen]


def test_an_empty_side_is_refused(table):
    whole = read_table(Path(table[1]), Path(table[3]))
    empty = replace(
        whole,
        query_ids=(),
        texts=(),
        domains=(),
        scores=whole.scores[:0],
        costs_usd=whole.costs_usd[:0],
    )
    with pytest.raises(ReplayError, match="test side"):
        prepare(whole, empty, "score")


@pytest.mark.skipif(
    "POINTSMAN_BENCH_DATA" not in os.environ, reason="POINTSMAN_BENCH_DATA names no real tables"
)
def test_on_a_real_table_linucb_is_not_below_the_best_fixed_arm(capsys):
    folder = Path(os.environ["POINTSMAN_BENCH_DATA"]) / "public"
    queries, outcomes = (folder / f"llmrouter9.{name}.csv.gz" for name in ("queries", "outcomes"))
    found = run(
        capsys,
        *("--queries", str(queries), "--outcomes", str(outcomes)),
        *("--learner", "linucb", "--seeds", "2"),
    )
    assert found["events"] == 1824
    assert len(found["arms"]) == 9
    best = found["baselines"]["best_fixed"]["test_reward"]
    assert found["test_reward"]["mean"] > best
    assert found["baselines"]["random"]["test_reward"] < best


def test_a_replay_trains_on_one_thread(tmp_path, monkeypatch, capsys):
    queries, outcomes = write_table(tmp_path, n=40)
    seen: list[int] = []

    def load(name: str) -> Learner:
        seen.extend(row["num_threads"] for row in threadpool_info() if row["user_api"] == "blas")
        return real(name)

    real = catalogue.load
    monkeypatch.setattr(catalogue, "load", load)
    given = ["--queries", queries, "--outcomes", outcomes, "--learner", "linucb", "--seeds", "1"]
    with threadpool_limits(2, "blas"):
        assert main(given) == 0, capsys.readouterr().err
    assert set(seen) == {1}
