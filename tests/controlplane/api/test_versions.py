from tests.controlplane.api.conftest import Api

ALIAS = "/v1/policies/chat/aliases/champion"


def test_the_champion_is_read_with_its_etag(api: Api) -> None:
    api.declare()
    answer = api("GET", ALIAS, scope="read")
    assert answer.json() == {"alias": "champion", "version": 1, "revision": 1}
    assert answer.headers["etag"] == '"1"'


def test_a_version_that_passed_is_promoted_and_published(api: Api) -> None:
    api.declare()
    number = api.add_version(passed=True)
    answer = api("PUT", ALIAS, {"version": number}, scope="publish", if_match='"1"')
    assert answer.json() == {"alias": "champion", "version": 2, "revision": 2}
    assert answer.headers["etag"] == '"2"'
    [newest, first] = api.ok("GET", "/v1/policies/chat/bundles")["items"]
    assert (newest["serial"], newest["version"], first["serial"]) == (2, 2, 1)
    assert newest["reason"] == "promoted by key:publish key"
    states = {v["number"]: v["state"] for v in api.ok("GET", "/v1/policies/chat/versions")["items"]}
    assert states == {1: "retired", 2: "champion"}


def test_the_standing_champion_is_put_again_without_a_publication(api: Api) -> None:
    api.declare()
    assert api("PUT", ALIAS, {"version": 1}, if_match='"1"').json()["revision"] == 1
    assert len(api.ok("GET", "/v1/policies/chat/bundles")["items"]) == 1


def test_without_if_match_nobody_is_promoted(api: Api) -> None:
    api.declare()
    answer = api("PUT", ALIAS, {"version": api.add_version(passed=True)})
    assert answer.status_code == 428
    assert answer.json()["field"] == "If-Match"


def test_a_stale_or_foreign_if_match_is_412(api: Api) -> None:
    api.declare()
    number = api.add_version(passed=True)
    for etag in ('"0"', '"2"', "1", 'W/"1"', '"1", "2"', '"x"', "", f'"{"9" * 30}"'):
        answer = api("PUT", ALIAS, {"version": number}, if_match=etag)
        assert answer.status_code == 412, etag
    assert api.ok("GET", ALIAS)["version"] == 1


def test_a_star_matches_whatever_stands(api: Api) -> None:
    api.declare()
    number = api.add_version(passed=True)
    assert api.ok("PUT", ALIAS, {"version": number}, if_match="*")["version"] == number


def test_a_failed_verdict_is_422_with_each_failed_check_and_its_number(api: Api) -> None:
    api.declare()
    number = api.add_version(passed=False)
    answer = api("PUT", ALIAS, {"version": number}, if_match='"1"')
    assert answer.status_code == 422
    problem = answer.json()
    assert problem["field"] == "version"
    assert "may not serve" in problem["detail"]
    [check] = problem["checks"]
    assert (check["name"], check["value"], check["bound"]) == ("over_champion", -0.02, 0.0)
    assert api.ok("GET", ALIAS)["version"] == 1


def test_a_version_without_a_verdict_is_422(api: Api) -> None:
    api.declare()
    number = api.add_version(passed=None)
    answer = api("PUT", ALIAS, {"version": number}, if_match='"1"')
    assert answer.status_code == 422
    assert (answer.json()["checks"], answer.json()["field"]) == ([], "version")


def test_a_version_that_does_not_exist_is_422(api: Api) -> None:
    api.declare()
    for version in (9, 0, "x", 2**80):
        answer = api("PUT", ALIAS, {"version": version}, if_match='"1"')
        assert answer.status_code == 422
        assert answer.json()["field"] == "version"


def test_a_version_that_has_served_may_serve_again(api: Api) -> None:
    api.declare()
    api.ok("PUT", ALIAS, {"version": api.add_version(passed=True)}, if_match='"1"')
    told = api.ok("PUT", ALIAS, {"version": 1}, if_match='"2"')
    assert told == {"alias": "champion", "version": 1, "revision": 3}


def test_rollbacks_walk_back_under_rising_serials(api: Api) -> None:
    api.declare()
    for revision in ('"1"', '"2"'):
        api.ok("PUT", ALIAS, {"version": api.add_version(passed=True)}, if_match=revision)
    path = "/v1/policies/chat/rollback"
    assert api.ok("POST", path, scope="publish") == {"version": 2, "serial": 4}
    assert api.ok("POST", path) == {"version": 1, "serial": 5}
    answer = api("POST", path)
    assert answer.status_code == 404
    assert "nothing to roll back to" in answer.json()["detail"]


def test_a_repeated_rollback_rolls_back_once(api: Api) -> None:
    api.declare()
    for revision in ('"1"', '"2"'):
        api.ok("PUT", ALIAS, {"version": api.add_version(passed=True)}, if_match=revision)
    path = "/v1/policies/chat/rollback"
    first = api.ok("POST", path, idempotency_key="k")
    assert api.ok("POST", path, idempotency_key="k") == first == {"version": 2, "serial": 4}
    assert api("POST", "/v1/policies/chat/rounds", idempotency_key="k").status_code == 409


def test_a_rollback_that_failed_leaves_its_key_free(api: Api) -> None:
    api.declare()
    path = "/v1/policies/chat/rollback"
    assert api("POST", path, idempotency_key="k").status_code == 404
    api.ok("PUT", ALIAS, {"version": api.add_version(passed=True)}, if_match='"1"')
    assert api.ok("POST", path, idempotency_key="k")["version"] == 1


def test_versions_come_newest_first_a_page_at_a_time(api: Api) -> None:
    api.declare()
    for _ in range(3):
        api.add_version(passed=False)
    path = "/v1/policies/chat/versions"
    first = api.ok("GET", f"{path}?limit=3", scope="read")
    assert ([v["number"] for v in first["items"]], first["next"]) == ([4, 3, 2], 2)
    rest = api.ok("GET", f"{path}?limit=3&before=2")
    assert ([v["number"] for v in rest["items"]], rest["next"]) == ([1], None)


def test_a_version_says_what_it_was_made_from_and_what_was_said_of_it(api: Api) -> None:
    api.declare()
    number = api.add_version(passed=False)
    found = api.ok("GET", f"/v1/policies/chat/versions/{number}", scope="read")
    assert (found["data_from"], found["data_to"], found["seed"], found["state"]) == (
        0, 0, 0, "candidate",
    )  # fmt: skip
    assert len(found["digest"]) == 64
    assert found["config"]["features"]
    [said] = found["verdicts"]
    assert (said["passed"], said["learner"], said["numbers"]["judged"]) == (False, "uniform", 500)
    assert [check["name"] for check in said["checks"]] == ["judged", "over_champion"]
    assert api("GET", "/v1/policies/chat/versions/9").status_code == 404


def test_verdicts_come_newest_first_of_one_version_or_all(api: Api) -> None:
    api.declare()
    one, two = api.add_version(passed=False), api.add_version(passed=True)
    path = "/v1/policies/chat/verdicts"
    found = api.ok("GET", path, scope="read")["items"]
    assert [(v["version"], v["passed"]) for v in found] == [(two, True), (one, False)]
    assert [v["version"] for v in api.ok("GET", f"{path}?version={one}")["items"]] == [one]
    assert len(api.ok("GET", f"{path}?limit=1")["items"]) == 1
