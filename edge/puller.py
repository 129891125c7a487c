"""Pull a policy's bundles: believe only what is signed, newer, fresh and computes the same here.

What fails is refused (a NACK in the status report), and the last good bundle goes on serving.
"""

import asyncio
import random
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from time import monotonic
from typing import Never

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from edge.backoff import Backoff
from edge.control_plane import ControlPlane, Download
from edge.errors import ControlPlaneError, TooLargeError
from edge.heads import bank_of
from edge.metrics import Metrics
from edge.policies import Fault, Nack, Policies
from edge.shelf import Shelf
from learners.bundle import Bundle, unseal
from learners.errors import BundleError, MiscomputedError

REFUSED_FOR_S = 60.0
MISSING_WAIT_S = 1.0
MIN_POLL_S = 0.5
_MAX_REASON = 500
_ETAG_SERIAL = re.compile(r'(?:W/)?"(\d{1,18})-')
log = structlog.get_logger()


def examine(data: bytes, trusted: Sequence[Ed25519PublicKey], *, policy: str) -> Bundle:
    """The bundle, when it is signed, whole, of this policy, and reproduces its golden vectors.

    Raises:
        BundleError: It is not.
    """
    try:
        return _examine(data, trusted, policy)
    except BundleError:
        raise
    except Exception as error:
        # The one place where foreign bytes become objects: whatever they set off must be a
        # refusal that the control plane hears of, and not the end of the pulling.
        raise MiscomputedError(f"the bundle cannot be examined: {error!r}") from error


def _examine(data: bytes, trusted: Sequence[Ed25519PublicKey], policy: str) -> Bundle:
    bundle = unseal(data, trusted)
    if bundle.policy != policy:
        raise BundleError(f"the bundle is of policy {bundle.policy!r}, {policy!r} was asked for")
    if not bundle.golden:
        raise MiscomputedError(
            "the bundle has no golden vector, so nothing shows that it computes here"
        )
    bundle.self_test()
    bank_of(bundle.heads)
    # Computed here, in a thread, rather than in the first request's way.
    assert bundle.digest  # noqa: S101
    return bundle


class Puller:
    """Keeps one policy current."""

    def __init__(
        self,
        policy: str,
        *,
        control_plane: ControlPlane,
        shelf: Shelf,
        policies: Policies,
        trusted: Sequence[Ed25519PublicKey],
        metrics: Metrics,
        backoff: Backoff,
        wait_s: float,
        now: Callable[[], datetime],
        changed: Callable[[], None],
    ) -> None:
        """``changed`` is called after each swap and each refusal."""
        self.policy = policy
        self._control_plane = control_plane
        self._shelf = shelf
        self._policies = policies
        self._trusted = trusted
        self._metrics = metrics
        self._backoff = backoff
        self._wait_s = wait_s
        self._now = now
        self._changed = changed
        self._serial = 0
        self._etag: str | None = None
        self._refused: tuple[str, float] | None = None
        self._log = log.bind(policy=policy)

    def boot(self) -> None:
        """Serve the last good bundle of the disk, expired or not, until a newer one comes."""
        self._serial = self._shelf.serial(self.policy)
        kept = self._shelf.bundle(self.policy)
        if kept is None:
            return
        try:
            bundle = examine(kept.data, self._trusted, policy=self.policy)
            if bundle.serial < self._serial:
                raise BundleError(f"serial {bundle.serial} is older than {self._serial}")
        except BundleError as error:
            self._log.error("bundle.disk_refused", reason=str(error))
            return
        self._etag = kept.etag
        self._swap(bundle, source="disk")

    async def run(self) -> Never:
        """Poll for as long as the edge lives."""
        while True:
            delay = await self.step()
            await asyncio.sleep(delay)

    async def step(self) -> float:
        """Ask once; returns how many seconds to wait before the next time."""
        started, known = monotonic(), self._known()
        try:
            found = await self._control_plane.bundle(self.policy, etag=known, wait_s=self._wait_s)
        except TooLargeError as error:
            return self._refuse(_claimed(error.etag), error.etag, error)
        except ControlPlaneError as error:
            return self._failed(error)
        if found is None:
            self._backoff.reset()
            if known == self._etag:
                self._settle()
            # A control plane that does not wait must not be asked in a tight loop.
            quick = monotonic() - started < MIN_POLL_S
            return random.uniform(0.5, 1.0) * MISSING_WAIT_S if quick else 0.0
        return await self._take(found)

    def _failed(self, error: ControlPlaneError) -> float:
        if error.missing:
            self._log.debug("bundle.none_yet")
            return random.uniform(0.5, 1.0) * MISSING_WAIT_S
        delay = max(self._backoff.next(), error.retry_after_s or 0.0)
        self._log.warning("bundle.pull_failed", error=str(error), retry_in_s=round(delay, 2))
        return delay

    def _known(self) -> str | None:
        """The ETag not to send again; a refused one is asked for again after a minute."""
        if self._refused is not None and monotonic() < self._refused[1]:
            return self._refused[0]
        self._refused = None
        return self._etag

    async def _take(self, found: Download) -> float:
        serial = _claimed(found.etag)
        try:
            bundle = await asyncio.to_thread(examine, found.data, self._trusted, policy=self.policy)
            serial = bundle.serial
            if self._is_current(bundle):
                self._etag = found.etag
                self._settle()
                return MIN_POLL_S
            self._check_newer(bundle)
        except BundleError as error:
            return self._refuse(serial, found.etag, error)
        try:
            await asyncio.to_thread(
                self._shelf.keep, self.policy, found.data, etag=found.etag, serial=serial
            )
        except OSError as error:
            # Serving the newer bundle matters more; the next start falls back to the older one.
            self._log.error("bundle.not_kept", error=str(error))
        self._etag, self._refused = found.etag, None
        self._backoff.reset()
        self._swap(bundle, source="control plane")
        return 0.0

    def _is_current(self, bundle: Bundle) -> bool:
        active = self._policies.active.get(self.policy)
        return active is not None and active.digest == bundle.digest

    def _check_newer(self, bundle: Bundle) -> None:
        if bundle.serial < self._serial or (
            bundle.serial == self._serial and self.policy in self._policies.active
        ):
            raise BundleError(
                f"serial {bundle.serial} does not rise above {self._serial}: "
                "publish what should be served under a higher one"
            )
        if bundle.expires_at <= self._now():
            raise BundleError(f"the bundle expired at {bundle.expires_at.isoformat()}")

    def _refuse(self, serial: int, etag: str | None, error: Exception) -> float:
        own = isinstance(error, MiscomputedError | TooLargeError)
        fault: Fault = "bundle" if own else "edge"
        nack = Nack(self.policy, serial, str(error)[:_MAX_REASON], fault)
        self._policies.nacks[self.policy] = nack
        self._metrics.nacks.labels(self.policy).inc()
        self._log.error("bundle.refused", serial=serial, reason=nack.reason)
        if etag is not None:
            self._refused = (etag, monotonic() + REFUSED_FOR_S)
        self._changed()
        return self._backoff.next()

    def _settle(self) -> None:
        """What is served here is what should be: no refusal stands any more."""
        self._refused = None
        if self._policies.settle(self.policy):
            self._changed()

    def _swap(self, bundle: Bundle, *, source: str) -> None:
        self._serial = max(self._serial, bundle.serial)
        self._policies.swap(bundle)
        self._log.info(
            "bundle.active",
            version=bundle.version,
            serial=bundle.serial,
            expires_at=bundle.expires_at.isoformat(),
            source=source,
        )
        self._changed()


def _claimed(etag: str | None) -> int:
    """The serial that the ETag claims, for the report on a bundle that cannot be read."""
    match = _ETAG_SERIAL.match(etag or "")
    return int(match.group(1)) if match else 0
