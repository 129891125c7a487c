"""The dashboard: one page of what is served, what it earns, and what was judged. No scripts."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs

import jinja2
import sqlalchemy as sa
from fastapi import APIRouter, Cookie, Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from controlplane import lineups, overrides
from controlplane.api import charts, experiment_cards
from controlplane.api.answers import ReleaseRow, StatusAnswer, VerdictAnswer
from controlplane.api.auth import Caller, identify
from controlplane.api.errors import ProblemError
from controlplane.api.heads import HeadAnswer, heads_of
from controlplane.api.policies import SHOWN, status_of
from controlplane.api.releases import row_of
from controlplane.api.runtime import Api, Runtime, now
from controlplane.api.versions import verdicts_of
from controlplane.publishing import EVALUATION
from storage import edges, policies, releases, versions
from storage.policies import StoredPolicy
from storage.releases import StoredFinding

router = APIRouter(include_in_schema=False)

COOKIE = "pointsman_key"
SIGNED_IN_S = 12 * 3_600
MAX_FORM = 4_096
MAX_POLICIES = 20
MAX_VERSIONS = 12
MAX_VERDICTS = 6
MAX_FINDINGS = 6
_VIEWERS = ("read", "publish")
_FOLDER = Path(__file__).parent / "templates"
_COMPARISONS = {"over_champion": "over the champion", "over_best_fixed": "over the best fixed arm"}

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_FOLDER),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)

Key = Annotated[str | None, Cookie(alias=COOKIE, max_length=256)]


@dataclass(frozen=True, slots=True)
class Card:
    """All that the page shows of a policy."""

    policy: StoredPolicy
    status: StatusAnswer
    chart: charts.Line | None
    versions: list[dict[str, Any]]
    candidates: frozenset[int]
    learner: str
    shadows: dict[str, int]
    verdicts: list["Judgement"]
    release: ReleaseRow | None
    experiments: list[experiment_cards.ExperimentCard]
    findings: list[StoredFinding]
    standing: Mapping[str, Any]
    heads: list[HeadAnswer]

    @property
    def progress(self) -> float:
        """How far the log has come to the next round, from 0 to 1."""
        return min(1.0, self.policy.log_position / max(1, self.status.next_round_position))

    @property
    def waiting(self) -> list[int]:
        """Candidates that have passed, where a person promotes."""
        if self.policy.config.get("auto_promote"):
            return []
        said = [one.verdict for one in self.verdicts if one.verdict.gate != EVALUATION]
        passed = [verdict.version for verdict in said if verdict.passed]
        return sorted(self.candidates.intersection(passed))


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict with its intervals."""

    verdict: VerdictAnswer
    comparisons: list[tuple[str, Mapping[str, Any], charts.Span]]


@router.get("/")
def dashboard(api: Api, key: Key = None, live: str = "") -> Response:
    """The page; without a key the way to sign in."""
    try:
        caller = identify(api, key, _VIEWERS)
    except ProblemError:
        return RedirectResponse("/login", 303, HEADERS)
    at = now()
    with api.engine.connect() as connection:
        found = policies.list_policies(connection, caller.project_id, limit=MAX_POLICIES)
        cards = [card(connection, policy) for policy in found]
        seen = edges.list_edges(connection, caller.project_id)
    return _page("dashboard.html", cards=cards, edges=seen, live=live == "1", now=at)


@router.get("/login")
async def login_form() -> Response:
    """Where a key is pasted."""
    return _page("login.html", error=None)


@router.post("/login")
async def login(request: Request, api: Api) -> Response:
    """Keep the key in a cookie that scripts cannot read and other sites cannot send."""
    _refuse_other_sites(request)
    key = _field(await request.body(), "key")
    try:
        await run_in_threadpool(_identify, api, key)
    except ProblemError as error:
        page = _page("login.html", error=str(error))
        page.status_code = error.status
        return page
    answer = RedirectResponse("/?live=1", 303, HEADERS)
    answer.set_cookie(
        COOKIE,
        key,
        max_age=SIGNED_IN_S,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return answer


@router.post("/logout")
async def logout(request: Request) -> Response:
    """Forget the key."""
    _refuse_other_sites(request)
    answer = RedirectResponse("/login", 303, HEADERS)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer


@router.get("/pointsman.css")
async def stylesheet() -> Response:
    """The page's looks."""
    return FileResponse(_FOLDER / "pointsman.css", media_type="text/css")


@router.get("/pointsman.svg")
async def icon() -> Response:
    """The page's icon."""
    return FileResponse(_FOLDER / "pointsman.svg", media_type="image/svg+xml")


def card(connection: sa.Connection, policy: StoredPolicy) -> Card:
    """Read what the page shows of a policy."""
    status = status_of(connection, policy)
    said = verdicts_of(connection, policy, limit=MAX_VERDICTS)
    champion = status.champion.version if status.champion else 0
    rows = versions.list_versions(connection, policy.id, limit=MAX_VERSIONS)
    return Card(
        policy=policy,
        status=status,
        chart=charts.line(
            status.rewards, versions.champions_since(connection, policy.id, now() - SHOWN)
        ),
        versions=lineups.as_they_stand(rows, lineups.roles(connection, policy.id)),
        candidates=frozenset(row["number"] for row in rows if row["state"] == "candidate"),
        learner=versions.learners_of(connection, policy.id, [champion]).get(champion, ""),
        shadows=lineups.watching(connection, policy.id),
        verdicts=[judgement(verdict) for verdict in said],
        release=next(map(row_of, releases.list_releases(connection, policy.id, limit=1)), None),
        experiments=experiment_cards.cards(connection, policy),
        findings=releases.list_findings(connection, policy.id, limit=MAX_FINDINGS),
        standing=overrides.read(connection, policy.id, now()),
        heads=heads_of(connection, policy),
    )


def judgement(verdict: VerdictAnswer) -> Judgement:
    """A verdict's comparisons on one scale."""
    found = {name: verdict.numbers.get(name) for name in _COMPARISONS}
    scale = [estimate for estimate in found.values() if estimate]
    rows = []
    for name, estimate in found.items():
        span = charts.span(estimate, scale)
        if estimate and span:
            rows.append((_COMPARISONS[name], estimate, span))
    return Judgement(verdict, rows)


def ago(then: datetime, at: datetime) -> str:
    """How long ago, in one unit."""
    seconds = max(0.0, (at - then).total_seconds())
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def number(value: float | None, digits: int = 4) -> str:
    """A number as a person reads it."""
    if value is None or not math.isfinite(value):
        return "–"
    return (
        f"{value:,.0f}" if float(value).is_integer() and abs(value) >= 10 else f"{value:.{digits}f}"
    )


def signed(value: float | None) -> str:
    """A difference, with its sign."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:+.4f}".replace("-", "−")


_TEMPLATES.filters.update(ago=ago, number=number, signed=signed)


def _page(name: str, **values: Any) -> HTMLResponse:
    return HTMLResponse(_TEMPLATES.get_template(name).render(values), headers=HEADERS)


def _identify(api: Runtime, key: str) -> Caller:
    return identify(api, key, _VIEWERS)


def _field(body: bytes, name: str) -> str:
    if len(body) > MAX_FORM:
        raise ProblemError(413, f"the form has more than {MAX_FORM} bytes")
    found = parse_qs(body.decode("ascii", "replace"), max_num_fields=10)
    return found.get(name, [""])[0].strip()


def _refuse_other_sites(request: Request) -> None:
    """A form on another site must not sign anybody in or out."""
    if request.headers.get("sec-fetch-site", "none") not in {"same-origin", "none"}:
        raise ProblemError(403, "the form was sent from another site")
