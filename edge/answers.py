"""What shadows' arms answered, held for a while so that an application can have it judged."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from edge.errors import ProblemError
from edge.headers import model_header

MAX_ANSWERS = 1_000
MAX_BYTES = 64 * 1024 * 1024
HELD_S = 600.0


@dataclass(frozen=True, slots=True)
class Answer:
    """An arm's answer as it came; ``status`` None: it has not come yet, 0: it never will."""

    until: float
    arm: str
    status: int | None = None
    content_type: str = ""
    body: bytes = b""


class Answers:
    """In memory, never on a disk; the oldest go first where there is no room."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """``clock`` is monotonic, in seconds."""
        self._clock = clock
        self._held: OrderedDict[str, Answer] = OrderedDict()
        self._bytes = 0

    @property
    def held(self) -> tuple[str, ...]:
        """The decisions whose answers are held, the oldest first."""
        return tuple(self._held)

    def expect(self, decision_id: str, arm: str) -> None:
        """An answer will come."""
        self._put(decision_id, Answer(self._clock() + HELD_S, arm))

    def keep(
        self, decision_id: str, arm: str, status: int, content_type: str = "", body: bytes = b""
    ) -> None:
        """An answer has come; with status 0: none will."""
        self._put(decision_id, Answer(self._clock() + HELD_S, arm, status, content_type, body))

    def drop(self, decision_id: str) -> None:
        """Forget one."""
        held = self._held.pop(decision_id, None)
        if held is not None:
            self._bytes -= len(held.body)

    def _put(self, decision_id: str, answer: Answer) -> None:
        self.drop(decision_id)
        self._held[decision_id] = answer
        self._bytes += len(answer.body)
        while len(self._held) > MAX_ANSWERS or self._bytes > MAX_BYTES or self._stale():
            self.drop(next(iter(self._held)))

    def _stale(self) -> bool:
        return bool(self._held) and next(iter(self._held.values())).until <= self._clock()

    async def read(self, request: web.Request) -> web.Response:
        """``GET /v1/shadow-answers/{decision_id}``: the answer, 202 before it has come."""
        decision_id = request.match_info["decision_id"].lower()
        while self._stale():
            self.drop(next(iter(self._held)))
        found = self._held.get(decision_id)
        if found is None:
            raise ProblemError(
                404,
                "answer_not_found",
                f"no shadow's answer of decision {decision_id[:64]} is held here",
                field="decision_id",
                value=decision_id[:64],
                remedy=f"ask the edge that decided, within {HELD_S:.0f} s of the answer",
            )
        if found.status is None:
            return web.Response(status=202, headers={"Retry-After": "1"})
        if found.status == 0:
            raise ProblemError(
                502,
                "upstream_failed",
                f"arm {found.arm!r} gave no answer to decision {decision_id}",
                headers=model_header(found.arm),
            )
        kind = found.content_type or "application/octet-stream"
        headers = model_header(found.arm) | {"Content-Type": kind}
        return web.Response(status=found.status, body=found.body, headers=headers)
