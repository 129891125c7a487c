import numpy as np

from kernels import tools_rerank
from kernels.tools import Outcomes, refine
from kernels.tools_ranking import unit
from kernels.tools_rerank import DENSE, fit, reorder

SIZE = 24


class World:
    """Pairs of tools whose queries come in small groups that lie among each other's."""

    def __init__(self, seed, *, tools=10, each=40, few=()):
        rng = np.random.default_rng(seed)
        groups = rng.normal(size=(tools, 4, SIZE)) + np.repeat(
            rng.normal(size=(tools // 2, 1, SIZE)), 2, axis=0
        )
        self.tools = unit(groups.mean(axis=1) + 0.3 * rng.normal(size=(tools, SIZE)))
        many = [3 if tool in few else each for tool in range(tools)]
        self.tool = np.repeat(np.arange(tools), many)
        self.queries = self._drawn(rng, groups, self.tool)
        self.test_tool = np.repeat(np.arange(tools), each)
        self.test = self._drawn(rng, groups, self.test_tool)

    @staticmethod
    def _drawn(rng, groups, tool):
        centres = groups[tool, rng.integers(0, 4, len(tool))]
        return unit(centres + 0.35 * rng.normal(size=centres.shape))

    def outcomes(self):
        every = np.arange(len(self.tool))
        return Outcomes(self.queries, every, self.tool, np.ones(len(every), np.bool_))


def test_a_second_look_finds_what_no_single_vector_can():
    world = World(0)
    refined = refine(world.tools, world.outcomes())
    second = fit(world.tools, world.outcomes(), refined)
    assert second is not None
    before = (refined.order(world.test)[:, 0] == world.test_tool).mean()
    after = (second.order(refined, world.test)[:, 0] == world.test_tool).mean()
    assert after > before + 0.03
    assert second.gain >= tools_rerank.LEAST_GAIN


def test_tools_with_few_outcomes_stay_exactly_where_they_rank():
    world = World(0, few=(0,))
    refined = refine(world.tools, world.outcomes())
    second = fit(world.tools, world.outcomes(), refined)
    assert second is not None
    first, order = refined.order(world.test), second.order(refined, world.test)
    np.testing.assert_array_equal(first[:, 5:], order[:, 5:])
    assert (np.sort(first, axis=1) == np.sort(order, axis=1)).all()
    few = first == 0
    assert few.any()
    np.testing.assert_array_equal(first[few], order[few])


def test_examples_of_all_tools_together_are_bounded(monkeypatch):
    world = World(0)
    refined = refine(world.tools, world.outcomes())
    monkeypatch.setattr(tools_rerank, "MAX_EXAMPLES", 101)
    second = fit(world.tools, world.outcomes(), refined)
    assert second is not None
    assert len(second.examples) == 10 * 10
    assert (second.places >= 0).sum() == len(second.examples)


def test_there_is_no_second_look_where_outcomes_are_thin():
    world = World(2, each=DENSE - 1)
    refined = refine(world.tools, world.outcomes())
    assert fit(world.tools, world.outcomes(), refined) is None


def test_there_is_no_second_look_where_it_gains_nothing():
    rng = np.random.default_rng(3)
    tools = unit(rng.normal(size=(4, SIZE)))
    tool = np.repeat(np.arange(4), 20)
    queries = unit(tools[tool] + 0.01 * rng.normal(size=(80, SIZE)))
    log = Outcomes(queries, np.arange(80), tool, np.ones(80, np.bool_))
    assert fit(tools, log, refine(tools, log)) is None


def test_only_places_of_movable_tools_change():
    first = np.array([[7, 3, 5, 1]])
    told = np.array([[0.1, 9.0, 0.3, 0.2]])
    movable = np.array([[True, False, True, True]])
    assert reorder(first, told, movable).tolist() == [[5, 3, 1, 7]]
    assert reorder(first, told, np.zeros_like(movable)).tolist() == first.tolist()
    assert reorder(first, told, np.ones_like(movable)).tolist() == [[3, 5, 1, 7]]
