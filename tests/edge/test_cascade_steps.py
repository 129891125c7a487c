from kernels.signals.text import read
from learners.cascade import Plan, Step, scorer
from learners.lineup import Golden
from tests.edge.doubles import ARMS, control_plane, edge, eventually, make_bundle, replaced
from tests.edge.ready import run


def test_an_app_walks_a_cascade_by_excluding_what_it_has_asked(tmp_path):
    async def scenario():
        plan = Plan((Step("medium", 0.6), Step("large")), 1.0, 0.9)
        bundle = make_bundle(policy="tools")
        policy = scorer(plan, ARMS, bundle.schema.dimension)
        bundle = replaced(bundle, scorer=policy, golden=())
        context = read("Capital of France?")
        found = tuple(bundle.distribution(context, ARMS).tolist())
        async with control_plane() as plane:
            plane.publish(replaced(bundle, golden=(Golden(context, ARMS, found),)))
            async with edge(plane.url, tmp_path, policies="tools") as client:
                await client.ready()
                signals: dict[str, float] = {}
                while (arm := plan.after(signals)) is not None:
                    ask = {"policy": "tools", "context": {"price": 1.0}, "episode_id": "e1"}
                    _, answer = await client.post(
                        "/v1/decide", {**ask, "excluded_actions": sorted(signals)}
                    )
                    assert (answer["action"], answer["propensity"]) == (arm, 1.0)
                    signals[answer["action"]] = 0.5  # the judge is not content
                assert list(signals) == ["medium", "large"]
                await eventually(lambda: len(plane.decisions) == 2)
                assert {row["episode_id"] for row in plane.decisions} == {"e1"}

    run(scenario())
