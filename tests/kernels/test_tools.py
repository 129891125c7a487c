from dataclasses import replace

import numpy as np
import pytest

from kernels import tools as tools_module
from kernels import tools_ranking as ranking
from kernels.tools import Outcomes, refine
from kernels.tools_moves import moves_of
from kernels.tools_ranking import unit

SIZE = 24


class World:
    """Tools whose descriptions point beside the queries that they serve.

    All queries share a direction that descriptions lack, as questions do, and each tool's queries
    lie about a place of its own. Some of the tools have no outcomes.
    """

    def __init__(self, seed, *, tools=12, each=20, cold=(), few=()):
        rng = np.random.default_rng(seed)
        style = rng.normal(size=SIZE)
        centres = rng.normal(size=(tools, SIZE))
        self.tools = unit(centres + 1.1 * rng.normal(size=centres.shape))
        many = [0 if t in cold else 2 if t in few else each for t in range(tools)]
        self.tool = np.repeat(np.arange(tools), many)
        self.queries = unit(self._drawn(rng, centres, style, self.tool))
        self.test_tool = np.repeat(np.arange(tools), each)
        self.test = unit(self._drawn(rng, centres, style, self.test_tool))

    @staticmethod
    def _drawn(rng, centres, style, tool):
        return 0.8 * style + centres[tool] + 0.8 * rng.normal(size=(len(tool), SIZE))

    def outcomes(self):
        every = np.arange(len(self.tool))
        return Outcomes(self.queries, every, self.tool, np.ones(len(every), np.bool_))

    def ndcg(self, order):
        """Of each test query."""
        rows = np.arange(len(self.test_tool))
        pairs = ranking.pairs_of(self.tools, self.test, (rows, self.test_tool))
        return ranking.ndcg(pairs, order)

    def before(self):
        return self.ndcg(ranking.order(self.test @ self.tools.T))


def test_outcomes_raise_the_ranking_of_queries_that_were_not_seen():
    world = World(0)
    found = refine(world.tools, world.outcomes())
    assert world.ndcg(found.order(world.test)).mean() > world.before().mean() + 0.05
    assert found.after > found.before


def test_tools_without_outcomes_or_with_few_keep_their_places_while_the_others_gain():
    cold, few = (0, 1, 2), (4, 5)
    plain = []
    for seed in range(6):
        world = World(seed, cold=cold, few=few)
        found = refine(world.tools, world.outcomes())
        bare = [*cold, *few]
        assert not found.refined[bare].any()
        np.testing.assert_array_equal(found.vectors[bare], world.tools[bare])
        order = found.order(world.test)
        first = ranking.order(world.test @ world.tools.T)
        kept = np.isin(first, bare)
        np.testing.assert_array_equal(order[kept], first[kept])
        np.testing.assert_array_equal(np.isin(order, bare), kept)
        of_cold = np.isin(world.test_tool, cold)
        change = world.ndcg(order) - world.before()
        assert (change[np.isin(world.test_tool, bare)] == 0).all()
        assert change[~np.isin(world.test_tool, bare)].mean() > 0
        moved = ranking.order(world.test @ found.vectors.T)
        plain.append((world.ndcg(moved) - world.before())[of_cold].mean())
    # What is guarded against is real: tools that moved outrank the others where they may.
    assert np.mean(plain) < -0.05


def test_no_tool_ranks_its_left_out_queries_worse_than_by_its_description():
    for seed in range(4):
        world = World(seed, tools=20, each=6)
        log = world.outcomes()
        found = refine(world.tools, log)
        pairs, failed = tools_module.pairs_of_outcomes(world.tools, log)
        moves = moves_of(world.tools, log.queries, pairs, failed, np.ones(20, np.bool_))
        scores = moves.left_out(pairs, (found.pull, found.push)) + found.favours
        after = ranking.ndcg(pairs, ranking.placed(pairs.base, scores, found.refined))
        before = ranking.ndcg(pairs, ranking.order(pairs.base))
        change = ranking.by_tool(after - before, pairs.tool, 20)
        assert change.min() >= -1e-6
        assert found.after == pytest.approx(after.mean())


def test_a_failure_pushes_a_tool_away_from_its_query():
    world = World(1)
    log = world.outcomes()
    failed = np.flatnonzero(world.tool == 1)
    both = Outcomes(
        log.queries,
        np.concatenate([log.query, failed]),
        np.concatenate([log.tool, np.zeros(len(failed), np.int64)]),
        np.concatenate([log.success, np.zeros(len(failed), np.bool_)]),
    )
    pairs = ranking.pairs_of(world.tools, log.queries, (log.query, log.tool))
    enough = np.ones(len(world.tools), np.bool_)
    failures = (failed, np.zeros(len(failed), np.int64))
    none = (np.zeros(0, np.int64), np.zeros(0, np.int64))
    step = (3.0, 0.5)
    there = moves_of(world.tools, log.queries, pairs, failures, enough).vectors(step)
    without = moves_of(world.tools, log.queries, pairs, none, enough).vectors(step)
    at = world.queries[failed].mean(axis=0)
    assert there[0] @ at < without[0] @ at
    np.testing.assert_allclose(there[2:], without[2:], atol=1e-6)
    assert refine(world.tools, both).refined.any()


def test_a_query_that_is_left_out_moves_nothing_that_it_is_ranked_by():
    world = World(2, tools=6, each=8)
    log = world.outcomes()
    pairs = ranking.pairs_of(world.tools, log.queries, (log.query, log.tool))
    enough = np.ones(6, np.bool_)
    none = (np.zeros(0, np.int64), np.zeros(0, np.int64))
    moves = moves_of(world.tools, log.queries, pairs, none, enough)
    scores = moves.left_out(pairs, (3.0, 0.5))
    row = 11
    own = int(world.tool[row])
    pulls = moves.pulls.copy()
    pulls[own] -= world.queries[row]
    pushes, many = moves.pushes.copy(), moves.many.copy()
    for query, tool in zip(*moves.pushing, strict=True):
        if query == row:
            pushes[tool] -= world.queries[row]
            many[tool] -= 1
    kept = replace(moves, pulls=pulls, pushes=pushes, many=many)
    expected = kept.vectors((3.0, 0.5)) @ world.queries[row]
    np.testing.assert_allclose(scores[row], expected, atol=1e-5)


def test_without_outcomes_nothing_moves():
    world = World(0)
    none = np.zeros(0, np.int64)
    found = refine(world.tools, Outcomes(world.queries, none, none, none == 1))
    assert not found.refined.any()
    np.testing.assert_array_equal(found.vectors, world.tools)
    assert (found.before, found.after) == (0.0, 0.0)


def test_a_query_may_be_served_by_two_tools_and_neither_counts_against_the_other():
    world = World(4)
    log = world.outcomes()
    second = (world.tool + 1) % len(world.tools)
    both = Outcomes(
        log.queries,
        np.concatenate([log.query, log.query]),
        np.concatenate([log.tool, second]),
        np.ones(2 * len(log.query), np.bool_),
    )
    pairs = ranking.pairs_of(world.tools, both.queries, (both.query, both.tool))
    best = np.where(pairs.other, 2.0, 0.0).astype(np.float32)
    assert (ranking.ndcg(pairs, ranking.order(best)) == 1.0).all()
    assert refine(world.tools, both).after >= refine(world.tools, both).before


def test_the_same_outcomes_give_the_same_tools():
    world = World(5, cold=(0,))
    one, two = refine(world.tools, world.outcomes()), refine(world.tools, world.outcomes())
    np.testing.assert_array_equal(one.vectors, two.vectors)
    np.testing.assert_array_equal(one.favours, two.favours)


def test_wrong_arguments_are_refused_with_the_remedy():
    world = World(0)
    log = world.outcomes()
    with pytest.raises(ValueError, match="scale it to 1"):
        refine(2 * world.tools, log)
    with pytest.raises(ValueError, match="by one encoder"):
        refine(unit(world.tools[:, :8]), log)
    with pytest.raises(ValueError, match="needs 2 successes"):
        refine(world.tools, log, least=1)
    with pytest.raises(ValueError, match="there are 3 tools, counted from 0"):
        refine(world.tools[:3], log)
    with pytest.raises(ValueError, match="one row of each"):
        Outcomes(log.queries, log.query, log.tool[:-1], log.success)
    with pytest.raises(ValueError, match="there are 2 queries"):
        Outcomes(log.queries[:2], log.query, log.tool, log.success)
    broken = log.queries.copy()
    broken[7] = np.nan
    with pytest.raises(ValueError, match="row 7"):
        replace(log, queries=broken)


def test_too_many_outcomes_are_refused_by_a_number_that_fits(monkeypatch):
    world = World(0)
    monkeypatch.setattr(tools_module, "MAX_CELLS", 100 * len(world.tools))
    with pytest.raises(ValueError, match="give the newest 100"):
        refine(world.tools, world.outcomes())
