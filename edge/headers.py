"""Headers of an answer: what an arm's are relayed, and what the edge adds of its decision."""

from collections.abc import Iterable
from urllib.parse import quote

from edge.router import Decision

_OWN = "x-route-"
_SAFE = " !#$&'()*+,/:;=?@[]~|"
# Hop by hop (RFC 9110 §7.6.1), framing that aiohttp writes anew, and cookies, which would carry
# one client's state with a provider to all others.
_NOT_RELAYED = frozenset(
    {
        "connection",
        "content-length",
        "date",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "server",
        "set-cookie",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


def decision_headers(decision: Decision, shadow_id: str | None = None) -> dict[str, str]:
    """What a client needs to give feedback, and to know what it got.

    ``shadow_id`` is of the decision by which another arm gets the same request, if one will.
    """
    found = {
        "x-route-decision-id": decision.decision_id,
        "x-route-policy": f"{decision.policy}@{decision.version}",
        "x-route-propensity": repr(decision.propensity),
        **model_header(decision.action),
    }
    if decision.split is not None and decision.variant is not None:
        variant = f"{decision.split}/{decision.variant}"
        found["x-route-variant"] = quote(variant, safe=_SAFE)
    if shadow_id is not None:
        found["x-route-shadow-decision-id"] = shadow_id
    return found


def model_header(arm: str) -> dict[str, str]:
    """The arm's name, percent-encoded where it is not plain ASCII."""
    return {"x-route-model": quote(arm, safe=_SAFE)}


def relayed(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """An arm's headers; ``x-route-…`` are this edge's to say, whatever an arm behind it says."""
    return {
        name: value
        for name, value in headers
        if name.lower() not in _NOT_RELAYED and not name.lower().startswith(_OWN)
    }
