"""The claims about AMD cards, each with the way to try it.

A claim returns its figures, or raises :class:`Refuted` with them, or :class:`Skipped` where this
machine lacks what it needs. Inputs and weights are drawn from fixed seeds: no download is needed.
"""

import importlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from kernels import aot
from kernels.attention import driver, launch, trials
from kernels.attention.driver import Card, DriverError, Lookup
from kernels.attention.trials import BOUNDS, HEAD_DIM, HEADS, LONG_TOKENS, WINDOW
from kernels.attention.triton_flash import Dtype, Problem

Figures = dict[str, float | str]
Array = npt.NDArray[Any]

ROCM_VERSION = Path("/opt/rocm/.info/version")
MIN_COSINE = 0.999
MIN_SPEED_UP = 5.0
MAX_START_SHARE = 0.5
"""Of the first start's time: what the second may take, which has nothing to compile."""


class Skipped(Exception):  # noqa: N818 -- it is no error: the claim could not be tried
    """A claim cannot be tried here; the message says why."""


class Refuted(Exception):  # noqa: N818 -- it is no error: the claim is wrong here
    """A claim was tried and does not hold; the message says by how much."""

    def __init__(self, message: str, figures: Figures) -> None:
        super().__init__(message)
        self.figures = figures


@dataclass(slots=True)
class Long:
    """One encoder on long texts: seconds of a run, and bytes of the card that it holds."""

    seconds: float
    held: int


@dataclass(slots=True)
class Started:
    """An encoder as an edge opens it: seconds until it serves, and of a run at each length."""

    seconds: float
    runs: dict[int, float]
    vectors: Array


@dataclass
class Machine:
    """The machine that is looked at, with what claims share. Leave it to give the card back.

    Args:
        scratch: A folder for what is built.
        objects: What ``kernels.aot`` wrote; None: it is built when a claim asks for it.
        lookup: The driver's calls; None: those of the library that is installed.
        nodes: Where Linux lists the cards.
        provider: What the encoder must run on, by its short name.
        long_tokens: How many tokens a long text has.
        layers: How many layers the encoder has; MiniLM has six.
    """

    scratch: Path
    objects: Path | None = None
    lookup: Lookup | None = None
    nodes: Path = driver.KFD
    provider: str = "migraphx"
    long_tokens: int = LONG_TOKENS
    layers: int = 6
    _stack: ExitStack = field(default_factory=ExitStack, repr=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @cached_property
    def targets(self) -> list[str]:
        """Instruction sets of the AMD cards here."""
        return driver.amd_targets(self.nodes)

    def why_no_card(self) -> str:
        """Why there is nothing to try."""
        if not self.nodes.exists():
            return (
                f"no AMD card: {self.nodes} does not exist, so amdgpu's compute part is not loaded"
            )
        return f"no AMD card: {self.nodes} lists none that this user may see"

    @cached_property
    def card(self) -> Card:
        """The first card, by its driver."""
        return self._stack.enter_context(Card("hip", lookup=self.lookup, target=self.targets[0]))

    @property
    def known(self) -> bool:
        """Whether kernels are built for the first card."""
        return self.targets[0] in aot.TARGETS

    @cached_property
    def folder(self) -> Path:
        """Code objects for the first card."""
        target = self.targets[0]
        if not self.known:
            raise Skipped(f"kernels are built for {', '.join(aot.TARGETS)}, this is {target}")
        if self.objects is not None:
            return self.objects
        try:
            return trials.build(target, self.scratch / "objects")
        except trials.MissingTritonError as missing:
            raise Skipped(f"{missing}; or give --objects") from missing

    def attention(self, dtype: Dtype) -> launch.Attention:
        """The attention kernel on the card."""
        folder = self.folder
        try:
            card = self.card
        except DriverError as error:
            raise Skipped(f"no driver: {error}") from error
        return launch.load(card, folder, dtype, HEAD_DIM)

    @cached_property
    def encoders(self) -> "Encoders":
        """Encoders on the provider that is claimed."""
        try:
            return Encoders(self)
        except ImportError as missing:
            raise Skipped(str(missing)) from missing


class Encoders:
    """MiniLM's shape with random weights, in ONNX Runtime on the machine's provider."""

    def __init__(self, machine: Machine) -> None:
        # ONNX and its runtime are extras: a machine without them skips what needs them.
        self.graphs = importlib.import_module("kernels.graphs.builder")
        self.config = importlib.import_module("kernels.graphs.config")
        self.oracle = importlib.import_module("kernels.graphs.oracle")
        self.providers = importlib.import_module("kernels.providers")
        self.opening = importlib.import_module("kernels.signals.opening")
        self.machine = machine
        self._long: dict[str, Long] = {}
        runtime = importlib.import_module("onnxruntime")
        wanted = self.providers.PROVIDERS[machine.provider]
        if wanted not in runtime.get_available_providers():
            remedy = self.providers.REMEDIES[machine.provider]
            raise Skipped(f"this ONNX Runtime {runtime.__version__} has no {wanted}: {remedy}")

    def shape(self, positions: int) -> Any:
        """The configuration of MiniLM with so many positions; 1,000 words are enough here."""
        sizes = {"heads": 12, "hidden": 384, "intermediate": 1536, "vocab": 1000}
        return self.config.EncoderConfig(layers=self.machine.layers, positions=positions, **sizes)

    def session(self, variant: str, config: Any, feed: Mapping[str, Array]) -> Any:
        """A session that has proven to run on the provider; no other may serve."""
        weights = self.config.random_weights(config, seed=1)
        model = self.graphs.build(weights, config, variant, window=WINDOW)
        placement = self.providers.Placement(cache_dir=self.machine.scratch / "compiled")
        return self.providers.choose(
            model, require=self.machine.provider, placement=placement, probe=feed
        ).session

    def feed(self, lengths: Sequence[int], tokens: int) -> dict[str, Array]:
        """Token ids and masks, texts padded to ``tokens``."""
        ids = np.random.default_rng(2).integers(1, 1000, (len(lengths), tokens))
        mask = (np.arange(tokens) < np.array(lengths)[:, None]).astype(np.int64)
        return {"input_ids": ids * mask, "attention_mask": mask}

    def long(self, variant: str) -> Long:
        """Time and memory of a long text."""
        if variant not in self._long:
            tokens = self.machine.long_tokens
            feed = self.feed([tokens], tokens)
            before = self._free()
            session = self.session(variant, self.shape(tokens), feed)
            held = before - self._free()
            seconds = median_seconds(lambda: session.run(["embedding"], feed))
            self._long[variant] = Long(seconds, held)
        return self._long[variant]

    def start(self, kept: Path) -> Started:
        """Open the encoder as an edge does; what its provider compiles is kept in a folder."""
        config = self.shape(512)
        model = self.graphs.build(self.config.random_weights(config, seed=1), config, "plain")
        placement = self.providers.Placement(cache_dir=kept)
        started = perf_counter()
        session = self.opening.open_session(
            self.providers.choose(model, require=self.machine.provider, placement=placement)
        )
        session.warm_up()
        seconds = perf_counter() - started
        texts = [[number + 1] * number for number in self.opening.LENGTHS]
        runs = {len(one): median_seconds(partial(session.encode, [one])) for one in texts}
        return Started(seconds, runs, session.encode(texts))

    def _free(self) -> int:
        try:
            return self.machine.card.free_bytes()
        except DriverError:
            return 0  # time is measured all the same; the claim on memory is then skipped


def median_seconds(work: Callable[[], object], *, rounds: int = 5) -> float:
    """Median seconds of one call, after one that warms up."""
    work()
    found = []
    for _ in range(rounds):
        started = perf_counter()
        work()
        found.append(perf_counter() - started)
    return statistics.median(found)


@dataclass(frozen=True, slots=True)
class Claim:
    """A sentence about AMD cards, and how to try it."""

    name: str
    says: str
    check: Callable[[Machine], Figures]


def check_card(machine: Machine) -> Figures:
    """A card that the kernels are built for."""
    figures: Figures = {"targets": " ".join(machine.targets)}
    if ROCM_VERSION.exists():
        figures["rocm"] = ROCM_VERSION.read_text().strip()
    if not machine.known:
        raise Skipped(f"kernels are built for {', '.join(aot.TARGETS)}, this is {figures}")
    return figures


def check_driver(machine: Machine) -> Figures:
    """ROCm's driver answers."""
    if not machine.known:
        raise Skipped(f"kernels are built for {', '.join(aot.TARGETS)}")
    card = machine.card
    return {"card": card.name, "target": card.target, "free_gib": card.free_bytes() / 2**30}


def check_attention(dtype: Dtype) -> Callable[[Machine], Figures]:
    """A check that the kernel agrees with the oracle in this number type."""

    def check(machine: Machine) -> Figures:
        worst = trials.difference(machine.attention(dtype))
        figures: Figures = {"largest_difference": worst, "bound": BOUNDS[dtype]}
        return held(figures, worst <= BOUNDS[dtype], "the kernel differs from the oracle")

    return check


def check_window_speed(machine: Machine) -> Figures:
    """Blocks outside of the window take no time."""
    whole, near = trials.seconds(machine.attention("fp16"), machine.long_tokens)
    figures: Figures = {"whole_ms": whole * 1e3, "window_ms": near * 1e3, "ratio": whole / near}
    return held(figures, whole / near >= MIN_SPEED_UP, f"less than {MIN_SPEED_UP:g} times as fast")


def check_naive_speed(machine: Machine) -> Figures:
    """The kernel against three plain operations of PyTorch."""
    try:
        torch = importlib.import_module("torch")
    except ImportError as missing:
        raise Skipped(
            "PyTorch for ROCm is not installed: there is no naive to compare"
        ) from missing
    if not torch.version.hip or not torch.cuda.is_available():
        raise Skipped("this PyTorch does not see an AMD card")
    tokens = machine.long_tokens
    query, key, value = (
        torch.randn(1, HEADS, tokens, HEAD_DIM, dtype=torch.float16, device="cuda")
        for _ in range(3)
    )

    def naive() -> None:
        torch.softmax(query @ key.transpose(-1, -2) * HEAD_DIM**-0.5, dim=-1) @ value
        torch.cuda.synchronize()

    attention = machine.attention("fp16")
    parts = [part.cpu().numpy() for part in (query, key, value)]
    with attention.placed(parts[0], parts[1], parts[2], np.array([tokens])) as addresses:
        problem = Problem(1, HEADS, tokens, HEAD_DIM)
        flash = attention.seconds(problem, addresses, rounds=5, calls=10)
    plain = median_seconds(naive)
    figures: Figures = {"naive_ms": plain * 1e3, "flash_ms": flash * 1e3, "ratio": plain / flash}
    return held(figures, plain >= flash, "slower than naive")


def check_kernel_memory(machine: Machine) -> Figures:
    """A launch takes no memory of the card beyond its inputs and its output."""
    taken = trials.memory(machine.attention("fp16"), machine.long_tokens)
    figures: Figures = {
        "taken_mib": taken.launch / 2**20,
        "naive_scores_mib": taken.naive / 2**20,
    }
    return held(figures, taken.holds, "more than 5 % of naive's scores")


def check_provider(machine: Machine) -> Figures:
    """ONNX Runtime's session runs on the provider, by its own word after a run."""
    encoders = machine.encoders
    started = perf_counter()
    session = encoders.session("plain", encoders.shape(64), encoders.feed([64, 30], 64))
    return {"provider": session.get_providers()[0], "first_run_s": perf_counter() - started}


def check_encoder(variant: str) -> Callable[[Machine], Figures]:
    """A check that a graph on the card agrees with the oracle."""

    def check(machine: Machine) -> Figures:
        encoders = machine.encoders
        config, feed = encoders.shape(192), encoders.feed([192, 100], 192)
        (found,) = encoders.session(variant, config, feed).run(["embedding"], feed)
        wanted, _ = encoders.oracle.encode(
            encoders.config.random_weights(config, seed=1),
            config,
            feed["input_ids"],
            feed["attention_mask"],
            window=WINDOW if variant == "blocklocal" else None,
        )
        least = float((found * wanted).sum(axis=1).min())
        figures: Figures = {"least_cosine": least, "bound": MIN_COSINE}
        return held(figures, least >= MIN_COSINE, "the graph differs from the oracle")

    return check


def check_served(machine: Machine) -> Figures:
    """An edge compiles the shapes of requests at its first start, and finds them at the next."""
    kept = machine.scratch / "served"
    first, second = machine.encoders.start(kept), machine.encoders.start(kept)
    files = sum(path.is_file() for path in kept.rglob("*"))
    least = float((first.vectors * second.vectors).sum(axis=1).min())
    figures: Figures = {
        "first_start_s": first.seconds,
        "second_start_s": second.seconds,
        "kept_files": files,
        "least_cosine": least,
        **{f"tokens_{number}_ms": run * 1e3 for number, run in second.runs.items()},
    }
    held(figures, files > 0, f"{machine.provider} kept nothing of what it compiled")
    held(figures, least >= MIN_COSINE, "what was kept computes something else")
    limit = MAX_START_SHARE * first.seconds
    return held(figures, second.seconds <= limit, "the second start compiled again")


def check_encoder_speed(machine: Machine) -> Figures:
    """Block-local attention pays on long texts."""
    plain, near = machine.encoders.long("plain"), machine.encoders.long("blocklocal")
    ratio = plain.seconds / near.seconds
    figures: Figures = {
        "plain_ms": plain.seconds * 1e3,
        "blocklocal_ms": near.seconds * 1e3,
        "ratio": ratio,
    }
    return held(figures, ratio >= MIN_SPEED_UP, f"less than {MIN_SPEED_UP:g} times as fast")


def check_encoder_memory(machine: Machine) -> Figures:
    """What the card holds for a long text, the model included."""
    plain, near = machine.encoders.long("plain"), machine.encoders.long("blocklocal")
    figures: Figures = {"plain_mib": plain.held / 2**20, "blocklocal_mib": near.held / 2**20}
    if plain.held <= 0:
        raise Skipped(f"the driver shows no memory held by the plain graph: {figures}")
    return held(figures, near.held < plain.held, "block-local holds no less than plain")


def held(figures: Figures, holds: bool, otherwise: str) -> Figures:  # noqa: FBT001 -- the verdict itself
    """The figures, where the claim holds."""
    if not holds:
        raise Refuted(otherwise, figures)
    return figures


CLAIMS: tuple[Claim, ...] = (
    Claim("card", "Linux lists an AMD card that kernels are built for", check_card),
    Claim("driver", "ROCm's driver opens the card", check_driver),
    Claim("attention-fp32", "the fp32 kernel agrees with the oracle", check_attention("fp32")),
    Claim("attention-fp16", "the fp16 kernel agrees with the oracle", check_attention("fp16")),
    Claim("attention-bf16", "the bf16 kernel agrees with the oracle", check_attention("bf16")),
    Claim("attention-window", "±64 of 8k tokens is 5 times as fast as all", check_window_speed),
    Claim("attention-naive", "the kernel is no slower than naive at 8k tokens", check_naive_speed),
    Claim("attention-memory", "a launch takes ≤ 5 % of naive's scores", check_kernel_memory),
    Claim("provider", "ONNX Runtime runs on MIGraphX, by proof", check_provider),
    Claim("encoder-plain", "the plain graph agrees with the oracle", check_encoder("plain")),
    Claim("encoder-local", "block-local agrees with the oracle", check_encoder("blocklocal")),
    Claim("served-shapes", "warm-up, and the second start from the cache", check_served),
    Claim("encoder-speed", "block-local is 5 times as fast at 8k tokens", check_encoder_speed),
    Claim("encoder-memory", "block-local holds less memory at 8k tokens", check_encoder_memory),
)
"""In order: what fails early explains what fails later."""
