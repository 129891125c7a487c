"""Which hardware runs a model: what a session proves, not what was asked of it.

ONNX Runtime falls back to the CPU without a word when a provider is missing, broken or refuses a
model. So a provider counts only when a session made for it names it first, and when one run has
gone through, if the caller gives inputs for one. Each provider that did not count is named with
its reason. Needs ``pip install 'pointsman[models]'``, or on an AMD card ``onnxruntime-migraphx``
in place of ``onnxruntime``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

try:
    import onnxruntime
except ImportError as missing:  # pragma: no cover -- a default install
    raise ImportError("sessions need onnxruntime: pip install 'pointsman[models]'") from missing

Array = NDArray[Any]

PROVIDERS: Mapping[str, str] = {
    "migraphx": "MIGraphXExecutionProvider",
    "rocm": "ROCMExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
"""Short name → ONNX Runtime's name, best first."""
DEFAULT_ORDER: tuple[str, ...] = tuple(PROVIDERS)
REMEDIES: Mapping[str, str] = {
    "migraphx": "install onnxruntime-migraphx instead of onnxruntime",
    "rocm": "it ended with ONNX Runtime 1.22; use migraphx",
    "cuda": "install onnxruntime-gpu instead of onnxruntime",
    "cpu": "install onnxruntime anew",
}
MAX_THREADS = 256
MAX_REASON = 500
"""Characters of a library's message that are kept."""


class Session(Protocol):
    """What is used of ``onnxruntime.InferenceSession``, which has no types of its own."""

    def run(self, output_names: Sequence[str] | None, input_feed: Mapping[str, Array]) -> Any:
        """Outputs in the order of their names, or all of them."""

    def get_providers(self) -> list[str]:
        """Providers of this session, the one that serves first."""

    def get_inputs(self) -> list[Any]:
        """The inputs, each with a ``name``."""

    def get_modelmeta(self) -> Any:
        """What the model says of itself: ``custom_metadata_map``."""


@dataclass(frozen=True, slots=True)
class Fallback:
    """A provider that was wanted and does not serve, and why."""

    provider: str
    reason: str


class ProviderError(RuntimeError):
    """No provider that was allowed can run the model; ``fallbacks`` says why, one by one."""

    def __init__(self, message: str, fallbacks: Sequence[Fallback] = ()) -> None:
        super().__init__(message)
        self.fallbacks = tuple(fallbacks)


@dataclass(frozen=True, slots=True)
class Proven:
    """A session, the provider that it has proven to run on, and those that were passed over."""

    session: Session
    provider: str
    fallbacks: tuple[Fallback, ...] = ()


@dataclass(frozen=True, slots=True)
class Placement:
    """Where and how a session runs.

    Args:
        threads: for one model call. One suits a server that has a process for each core.
        device: number of the card.
        cache_dir: where MIGraphX keeps compiled models; it compiles at each start where None.
        half: whether MIGraphX computes in float16.
        custom_ops: library of custom operators, such as ``com.ck``'s. Its code runs in this
            process: name only a file that you trust.

    Raises:
        ProviderError: a number is out of range, or the library is missing.
    """

    threads: int = 1
    device: int = 0
    cache_dir: Path | None = None
    half: bool = False
    custom_ops: Path | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.threads <= MAX_THREADS:
            raise ProviderError(f"threads is {self.threads}: give 1 to {MAX_THREADS}")
        if not 0 <= self.device < 64:
            raise ProviderError(f"device is {self.device}: give the card's number, 0 to 63")
        if self.custom_ops is not None and not self.custom_ops.is_file():
            raise ProviderError(f"custom_ops is {self.custom_ops}: there is no such file")


@dataclass(slots=True)
class _Search:
    """What is tried, and what has failed so far."""

    model: bytes | str
    placement: Placement
    probe: Mapping[str, Array] | None
    on_fallback: Callable[[Fallback], None] | None
    fallbacks: list[Fallback] = field(default_factory=list)

    def give_up(self, provider: str, reason: str) -> None:
        found = Fallback(provider, reason[:MAX_REASON])
        self.fallbacks.append(found)
        if self.on_fallback is not None:
            self.on_fallback(found)


def choose(
    model: bytes | Path,
    *,
    wanted: Sequence[str] = DEFAULT_ORDER,
    require: str | None = None,
    threads: int = 1,
    placement: Placement | None = None,
    probe: Mapping[str, Array] | None = None,
    on_fallback: Callable[[Fallback], None] | None = None,
) -> Proven:
    """The first provider that proves to run the model.

    Args:
        model: a serialised ONNX model or its file.
        wanted: short names of :data:`PROVIDERS`, best first.
        require: the only provider that may serve; with it there is no fallback.
        threads: for one call, where no ``placement`` is given.
        placement: card, caches and threads.
        probe: inputs for one run, whose outputs must be finite: some providers fail only then.
        on_fallback: is told each provider that is passed over, to log and to count it.

    Raises:
        ProviderError: a name is unknown, or no provider that may serve runs the model.
    """
    order = _order(wanted, require)
    placed = placement or Placement(threads=threads)
    loaded = model if isinstance(model, bytes) else str(model)
    search = _Search(loaded, placed, probe, on_fallback)
    for provider in order:
        session = _prove(provider, search)
        if session is not None:
            return Proven(session, provider, tuple(search.fallbacks))
    reasons = "; ".join(f"{one.provider}: {one.reason}" for one in search.fallbacks)
    needed = f"{order[0]} is required" if require else f"tried {', '.join(order)}"
    raise ProviderError(f"no provider runs the model ({needed}): {reasons}", search.fallbacks)


def provider_options(provider: str, placement: Placement) -> dict[str, str]:
    """What ONNX Runtime is told about a provider, by its own names."""
    if provider == "cpu":
        return {}
    options = {"device_id": str(placement.device)}
    if provider == "migraphx" and placement.cache_dir is not None:
        options["migraphx_model_cache_dir"] = str(placement.cache_dir)
    if provider == "migraphx" and placement.half:
        options["migraphx_fp16_enable"] = "1"
    return options


def session_options(placement: Placement) -> Any:
    """Options of a session that keeps to its threads and leaves a core to others while it waits."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = placement.threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    if placement.custom_ops is not None:
        options.register_custom_ops_library(str(placement.custom_ops))
    return options


def _order(wanted: Sequence[str], require: str | None) -> tuple[str, ...]:
    order = (require,) if require is not None else tuple(dict.fromkeys(wanted))
    unknown = [name for name in order if name not in PROVIDERS]
    if unknown or not order:
        known = ", ".join(PROVIDERS)
        raise ProviderError(f"provider is {', '.join(unknown) or 'missing'}: give one of {known}")
    return order


def _prove(provider: str, search: _Search) -> Session | None:
    name = PROVIDERS[provider]
    if name not in onnxruntime.get_available_providers():
        search.give_up(provider, f"this ONNX Runtime has no {name}: {REMEDIES[provider]}")
        return None
    try:
        session = _open(provider, search)
        serving = session.get_providers()[0]
        if serving != name:
            search.give_up(provider, f"a session made for {name} runs on {serving}")
            return None
        if search.probe is not None:
            _check(session.run(None, search.probe))
    except Exception as error:  # noqa: BLE001 -- providers raise classes of their own, none shared
        search.give_up(provider, f"{type(error).__name__}: {error}")
        return None
    return session


def _open(provider: str, search: _Search) -> Session:
    if provider == "migraphx" and search.placement.cache_dir is not None:
        search.placement.cache_dir.mkdir(parents=True, exist_ok=True)
    made: Session = onnxruntime.InferenceSession(
        search.model,
        session_options(search.placement),
        providers=[(PROVIDERS[provider], provider_options(provider, search.placement))],
        enable_fallback=0,
    )
    return made


def _check(outputs: Sequence[Array]) -> None:
    """Raises where an output of a probe cannot be right."""
    for number, output in enumerate(outputs):
        if not np.isfinite(output).all():
            raise ValueError(f"output {number} of the probe is not finite")
