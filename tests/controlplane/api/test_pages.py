"""The dashboard, as bytes and, where Chromium is there, as a person sees it."""

import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from playwright.sync_api import Browser, Page, sync_playwright

from controlplane import agenda
from controlplane.api import charts, pages
from controlplane.api.answers import RewardPoint
from storage import versions, work
from tests.controlplane.api.conftest import Api, ndjson, new_id, outcome

HOSTILE = "<script>alert('x')</script>\"&"
AT = datetime(2026, 1, 1, tzinfo=UTC)


def page(api: Api, path: str = "/", scope: str = "read") -> Any:
    headers = {"cookie": f"{pages.COOKIE}={api.tokens[scope]}"}
    return api.client.get(path, headers=headers, follow_redirects=False)


def login(api: Api, key: str, **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return api.client.post("/login", data={"key": key}, headers=named, follow_redirects=False)


def test_without_a_key_the_page_leads_to_the_login(api: Api) -> None:
    answer = api.client.get("/", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    assert "API key" in api.client.get("/login").text


def test_a_pasted_key_becomes_a_cookie_that_scripts_and_other_sites_cannot_use(api: Api) -> None:
    answer = login(api, f" {api.tokens['read']} ")
    assert (answer.status_code, answer.headers["location"]) == (303, "/?live=1")
    cookie = answer.headers["set-cookie"].lower()
    for part in ("httponly", "samesite=strict", "path=/", "max-age=43200"):
        assert part in cookie
    assert page(api).status_code == 200


def test_the_page_shows_the_release_with_its_stage_and_why_it_ended(api: Api) -> None:
    api.declare(release={"stages": [0, 0.05, 1], "approval": "stages"})
    assert "Release 1" not in page(api).text
    number = api.add_version(passed=True)
    api.ok("PUT", "/v1/policies/chat/aliases/challenger", {"version": number}, if_match="*")
    shown = page(api).text
    assert f"Release 1: version {number} in place of 1" in shown
    assert '<li aria-current="step" class="now">shadow</li>' in shown
    assert '<li class="">5 %</li>' in shown
    with api.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE releases SET status = 'waiting'")
    assert "/v1/policies/chat/releases/1/approve" in page(api).text
    api.ok("POST", "/v1/policies/chat/releases/1/revert")
    shown = page(api).text
    assert '<li aria-current="step" class="bad">shadow</li>' in shown
    assert "sent back by key:admin key" in shown


def test_the_page_names_the_champions_learner_and_who_watches_however_many_came_since(
    api: Api,
) -> None:
    api.declare()
    made = [api.add_version(passed=True) for _ in range(pages.MAX_VERSIONS)]
    api.ok("PUT", "/v1/policies/chat/aliases/shadow-2", {"version": made[0]}, if_match="*")
    shown = page(api).text
    assert "uniform, serial" in shown
    assert f"shadow-2 v{made[0]}" in shown
    assert f"{made[-2]}, {made[-1]} passed and wait for a person" in shown


@pytest.mark.parametrize("scope", ["ingest", "edge"])
def test_a_key_that_may_not_read_is_not_signed_in(api: Api, scope: str) -> None:
    answer = login(api, api.tokens[scope])
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers
    assert page(api, scope=scope).status_code == 303


@pytest.mark.parametrize("key", ["", HOSTILE, "pm_000000000000_x", "é"])
def test_a_wrong_key_is_not_signed_in_and_not_shown(api: Api, key: str) -> None:
    answer = login(api, key)
    assert answer.status_code == 401
    assert "Not signed in" in answer.text
    assert "<script" not in answer.text


def test_a_form_on_another_site_signs_nobody_in_or_out(api: Api) -> None:
    assert login(api, api.tokens["read"], sec_fetch_site="cross-site").status_code == 403
    headers = {"sec-fetch-site": "cross-site"}
    assert api.client.post("/logout", headers=headers).status_code == 403


def test_a_huge_form_is_refused(api: Api) -> None:
    assert login(api, "x" * 5_000).status_code == 413


def test_signing_out_forgets_the_key(api: Api) -> None:
    answer = api.client.post("/logout", follow_redirects=False)
    assert answer.headers["location"] == "/login"
    assert f'{pages.COOKIE}=""' in answer.headers["set-cookie"]


def test_the_cookie_opens_the_page_and_not_the_api(api: Api) -> None:
    assert page(api, "/v1/policies").status_code == 401


def test_pages_allow_no_script_no_frame_and_no_other_origin(api: Api) -> None:
    api.declare()
    for answer in (page(api), api.client.get("/login")):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["cache-control"] == "no-store"
        assert not re.search(r"<script|javascript:|style=|\son\w+=|https?://", answer.text)


def test_the_page_shows_policies_versions_verdicts_and_edges(api: Api) -> None:
    api.declare()
    api.add_version(passed=False)
    passed = api.add_version(passed=True)
    api.ok("POST", "/v1/outcomes:batch", content=ndjson([outcome(i) for i in api.decisions(3)]))
    api.ok("POST", "/v1/edges/edge-1/status", {"active": {"chat": 1}, "lag_s": 1.5})
    text = page(api).text
    for wanted in (
        "champion v1", "uniform, serial 1", "✓ passed", "✗ not released", "+0.0500", "−0.0200",
        "failed: over_champion", "waits for a person", f"Version {passed} passed",
        "edge-1", "chat serial 1", "1.5 s", "100.0 %",
    ):  # fmt: skip
        assert wanted in text, wanted


def test_an_empty_project_says_what_to_do(api: Api) -> None:
    assert "PUT /v1/policies/chat" in page(api).text
    assert "No edge has reported yet" in page(api).text


def test_hostile_names_are_text_and_never_markup(api: Api) -> None:
    api.declare()
    api.decisions(1, eligible=[HOSTILE], distribution=[1.0], action=HOSTILE, propensity=1.0)
    nack = {"policy": HOSTILE, "serial": 1, "reason": HOSTILE}
    body = {"active": {HOSTILE: 1}, "nack": [nack], "version": HOSTILE}
    api.ok("POST", "/v1/edges/edge-1/status", body)
    with api.engine.begin() as connection:
        work.ask(connection, api.policy_id(), HOSTILE, AT)
        connection.exec_driver_sql("UPDATE work SET last_error = %s", (HOSTILE,))
        connection.exec_driver_sql("UPDATE versions SET learner = %s", (HOSTILE,))
    text = page(api).text
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 7


def test_work_that_failed_is_shown(api: Api) -> None:
    api.declare()
    with api.engine.begin() as connection:
        work.ask(connection, api.policy_id(), "round", AT)
        connection.exec_driver_sql("UPDATE work SET last_error = 'no memory', attempts = 3")
    text = page(api).text
    assert "round failed" in text
    assert "no memory" in text


def test_a_project_sees_only_its_own_page(api: Api, other: Api) -> None:
    api.declare("mine")
    api.ok("POST", "/v1/edges/edge-mine/status", {})
    text = page(other).text
    assert "mine" not in text


def test_a_live_page_asks_again_by_itself(api: Api) -> None:
    refresh = '<meta http-equiv="refresh" content="5">'
    assert refresh in page(api, "/?live=1").text
    assert refresh not in page(api, "/").text


def test_assets_are_served_from_here(api: Api) -> None:
    for path, kind in (("/pointsman.css", "text/css"), ("/pointsman.svg", "image/svg+xml")):
        answer = api.client.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(kind)


def points(*rewards: float) -> list[RewardPoint]:
    return [
        RewardPoint(
            at=AT + timedelta(minutes=number), n=10, reward=reward, cost_usd=None,
            version=1 + number // 2,
        )
        for number, reward in enumerate(rewards)
    ]  # fmt: skip


def test_a_chart_keeps_every_point_inside_and_higher_rewards_higher() -> None:
    chart = charts.line(points(0.1, 0.5, 0.3))
    assert chart is not None
    xs, ys = [dot.x for dot in chart.dots], [dot.y for dot in chart.dots]
    assert xs == sorted(xs)
    assert 0 < min(xs) < max(xs) <= charts.WIDTH
    assert ys[1] < ys[2] < ys[0]
    assert 0 < min(ys) < max(ys) < charts.HEIGHT
    assert chart.changes == (), "a version that decided for some is no champion"


def test_a_chart_marks_where_another_version_became_champion() -> None:
    shown = points(*[0.5] * 101)
    at = [shown[position].at for position in (0, 30, 31, 60, 100)]
    outside = (AT - timedelta(days=1), 2, 1)
    chart = charts.line(shown, [outside, (at[1], 3, 2), (at[2], 4, 3), (at[3], 3, 4)])
    assert chart is not None
    assert [change.label for change in chart.changes] == ["", "v4", "back to v3"]
    assert [change.at for change in chart.changes] == [chart.dots[n].x for n in (30, 31, 60)]


def test_the_chart_marks_promotions_and_no_experiments(api: Api) -> None:
    api.declare()
    number = api.add_version(passed=True)
    sides = [{"name": "old", "share": 0.5}, {"name": "new", "share": 0.5, "version": number}]
    api.ok("POST", "/v1/policies/chat/experiments", {"name": "prices", "variants": sides})
    rewarded(api, -600, version=1)
    rewarded(api, -300, version=number, split="prices", variant="new")
    legend = "another version became champion"
    shown = page(api).text
    assert 'class="chart"' in shown
    assert legend not in shown
    assert 'class="change"' not in shown
    body = {"version": number}
    api.ok("PUT", "/v1/policies/chat/aliases/champion", body, if_match="*")
    rewarded(api, 60, version=number)
    shown = page(api).text
    assert legend in shown
    assert shown.count('class="change"') == shown.count(f">v{number}</text>") == 1


def rewarded(api: Api, seconds: float, **fields: Any) -> None:
    """A decision of so many seconds from now, with its reward."""
    at = datetime.now(UTC) + timedelta(seconds=seconds)
    identifier = str(new_id(at))
    api.decisions(decision_id=identifier, at=at.isoformat(), **fields)
    said = {"decision_id": identifier, "metric": "score", "value": 0.5}
    assert api("POST", "/v1/feedback", said).status_code == 202
    agenda.settle(api.engine, api.policy_id(), datetime.now(UTC) + timedelta(days=1))


def test_versions_are_listed_by_what_they_do_now(api: Api) -> None:
    api.declare(release={"stages": [0, 0.5, 1]})
    watching, trying, coming, waiting = (api.add_version(passed=True) for _ in range(4))
    with api.engine.begin() as connection:
        versions.set_state(connection, api.policy_id(), [watching, trying, coming], "retired")
    base = "/v1/policies/chat"
    sides = [{"name": "old", "share": 0.5}, {"name": "new", "share": 0.5, "version": trying}]
    more = {"unproven": True, "share": 0.5}
    api.ok("PUT", f"{base}/aliases/shadow-2", {"version": watching}, if_match="*")
    api.ok("POST", f"{base}/experiments", {"name": "prices", "variants": sides, **more})
    body = {"version": coming, "rollout": 0.2}
    api.ok("PUT", f"{base}/aliases/challenger", body, if_match="*")
    expected = {
        1: "champion",
        watching: "shadow",
        trying: "experiment",
        coming: "canary",
        waiting: "candidate",
    }
    listed = api.ok("GET", f"{base}/versions")["items"]
    assert {row["number"]: row["state"] for row in listed} == expected
    for number, state in expected.items():
        assert api.ok("GET", f"{base}/versions/{number}")["state"] == state
    shown = page(api).text
    for state in expected.values():
        assert f'<span class="badge {state}">{state}</span>' in shown


@pytest.mark.parametrize("rewards", [(), (1.0,)])
def test_a_chart_of_less_than_two_points_is_none(rewards: tuple[float, ...]) -> None:
    assert charts.line(points(*rewards)) is None


@pytest.mark.parametrize("rewards", [(0.0, 0.0), (1e6, 1e6), (-1.0, -1.0, -1.0)])
def test_a_flat_chart_has_a_line(rewards: tuple[float, ...]) -> None:
    chart = charts.line(points(*rewards))
    assert chart is not None
    assert len({dot.y for dot in chart.dots}) == 1
    assert 0 < chart.dots[0].y < charts.HEIGHT


def test_intervals_share_a_scale_with_zero() -> None:
    gain = {"low": 0.1, "value": 0.2, "high": 0.3}
    loss = {"low": -0.3, "value": -0.2, "high": -0.1}
    first, second = (charts.span(one, [gain, loss]) for one in (gain, loss))
    assert first is not None
    assert second is not None
    assert second.low < second.value < second.high < second.zero == first.zero < first.low
    assert charts.span({"low": None, "value": 1, "high": None}, []) is None


@pytest.fixture
def base_url(app: FastAPI) -> Iterator[str]:
    """The app on a port of its own, for a browser."""
    server = uvicorn.Server(uvicorn.Config(app, log_config=None))
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("there is no chromium: install the package chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def sign_in(chromium: Browser, base_url: str, token: str, **options: Any) -> Page:
    opened = chromium.new_page(**options)
    opened.goto(base_url)
    opened.get_by_label("API key").fill(token)
    opened.get_by_role("button", name="Sign in").click()
    opened.wait_for_url("**/?live=1", wait_until="load")
    return opened


@pytest.mark.browser
def test_a_person_signs_in_looks_and_signs_out_without_scripts(
    api: Api, chromium: Browser, base_url: str
) -> None:
    api.declare()
    api.add_version(passed=False)
    opened = sign_in(chromium, base_url, api.tokens["read"], java_script_enabled=False)
    assert opened.get_by_role("heading", name="chat", exact=True).is_visible()
    assert opened.get_by_text("✗ not released").is_visible()
    opened.get_by_role("link", name="Live").click()
    opened.locator("details summary", has_text="checks passed").click()
    assert opened.get_by_role("cell", name="-0.0200 against the champion").is_visible()
    opened.get_by_role("button", name="Sign out").click()
    assert opened.get_by_role("heading", name="Sign in").is_visible()
    opened.close()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(
    api: Api, chromium: Browser, base_url: str, scheme: Any
) -> None:
    api.declare()
    api.add_version(passed=False)
    api.add_version(passed=True)
    opened = sign_in(chromium, base_url, api.tokens["read"], color_scheme=scheme)
    faint = opened.evaluate(CONTRAST)
    opened.close()
    assert faint == []


@pytest.mark.browser
def test_a_phone_scrolls_down_and_not_sideways(api: Api, chromium: Browser, base_url: str) -> None:
    api.declare()
    api.add_version(passed=True)
    size: Any = {"width": 360, "height": 700}
    opened = sign_in(chromium, base_url, api.tokens["read"], viewport=size)
    assert opened.evaluate("document.documentElement.scrollWidth") <= 360
    opened.close()


# WCAG 2.2, 1.4.3: 4.5 to 1 for text of this size. Lists what falls short.
CONTRAST = """() => {
  const parse = c => c.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const f = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b);
  };
  const ground = e => {
    for (; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] > 0) return c;
    }
    return [255, 255, 255];
  };
  const faint = [];
  for (const e of document.querySelectorAll("main *, header *")) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || e.closest("svg")) continue;
    const a = light(parse(getComputedStyle(e).color)), b = light(ground(e));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) faint.push([e.tagName, e.className, e.textContent.trim().slice(0, 40), ratio]);
  }
  return faint;
}"""
