"""The claims about AMD cards, each with the way to try it.

A claim returns its figures, or raises :class:`Refuted` with them, or :class:`Skipped` where this
machine lacks what it needs. Inputs and weights are drawn from fixed seeds: no download is needed.
"""

import importlib
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from kernels import aot
from kernels.attention import driver, launch, reference
from kernels.attention.driver import Card, DriverError, Lookup
from kernels.attention.triton_flash import Dtype, Problem, from_bfloat16, to_bfloat16

Figures = dict[str, float | str]
Array = npt.NDArray[Any]

ROOT = Path(__file__).parent.parent
TRITON = ROOT / ".venv-triton" / "bin" / "python"
ROCM_VERSION = Path("/opt/rocm/.info/version")
BOUNDS: Mapping[Dtype, float] = {"fp32": 1e-4, "fp16": 2e-3, "bf16": 2e-2}
"""Largest difference from the oracle: what rounding of inputs of length 1 may do."""
HEAD_DIM = 32
"""Of the heads that are tried: MiniLM's."""
WINDOW = 64
LONG_TOKENS = 8_192
MIN_COSINE = 0.999
MIN_SPEED_UP = 5.0
MAX_MEMORY_SHARE = 0.05
BUILD_LIMIT_S = 600


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
        if not TRITON.exists():
            raise Skipped(f"{TRITON} is not there: make verify-rocm creates it; or give --objects")
        out = self.scratch / "objects"
        module = ["-m", "kernels.aot", "--out", str(out), "--target", target]
        command = [str(TRITON), *module, "--head-dim", str(HEAD_DIM)]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=BUILD_LIMIT_S
        )
        if done.returncode == 2:
            raise RuntimeError(f"kernels.aot failed: {done.stderr.strip()}")
        return out

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
        attention = machine.attention(dtype)
        worst = 0.0
        for tokens, window in ((333, None), (500, WINDOW), (64, 0), (1, None)):
            parts = draw(2, 3, tokens)
            given = [as_type(part, dtype) for part in parts]
            rounded = [from_type(part, dtype) for part in given]
            lengths = np.array([tokens, tokens // 2])
            found = from_type(
                attention.attend(given[0], given[1], given[2], lengths=lengths, window=window),
                dtype,
            )
            wanted = reference.attend(*rounded, lengths=lengths, window=window)
            worst = max(worst, float(np.nan_to_num(np.abs(found - wanted), nan=np.inf).max()))
        figures: Figures = {"largest_difference": worst, "bound": BOUNDS[dtype]}
        return held(figures, worst <= BOUNDS[dtype], "the kernel differs from the oracle")

    return check


def check_window_speed(machine: Machine) -> Figures:
    """Blocks outside of the window take no time."""
    attention = machine.attention("fp16")
    tokens = machine.long_tokens
    parts = [as_type(part, "fp16") for part in draw(1, 12, tokens)]
    with attention.placed(parts[0], parts[1], parts[2], np.array([tokens])) as addresses:
        whole, near = (
            attention.seconds(
                Problem(1, 12, tokens, HEAD_DIM, window=window), addresses, rounds=5, calls=10
            )
            for window in (None, WINDOW)
        )
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
        torch.randn(1, 12, tokens, HEAD_DIM, dtype=torch.float16, device="cuda") for _ in range(3)
    )

    def naive() -> None:
        torch.softmax(query @ key.transpose(-1, -2) * HEAD_DIM**-0.5, dim=-1) @ value
        torch.cuda.synchronize()

    attention = machine.attention("fp16")
    parts = [part.cpu().numpy() for part in (query, key, value)]
    with attention.placed(parts[0], parts[1], parts[2], np.array([tokens])) as addresses:
        problem = Problem(1, 12, tokens, HEAD_DIM)
        flash = attention.seconds(problem, addresses, rounds=5, calls=10)
    plain = median_seconds(naive)
    figures: Figures = {"naive_ms": plain * 1e3, "flash_ms": flash * 1e3, "ratio": plain / flash}
    return held(figures, plain >= flash, "slower than naive")


def check_kernel_memory(machine: Machine) -> Figures:
    """A launch takes no memory of the card beyond its inputs and its output."""
    attention = machine.attention("fp16")
    tokens = machine.long_tokens
    parts = [as_type(part, "fp16") for part in draw(1, 12, tokens)]
    problem = Problem(1, 12, tokens, HEAD_DIM)
    with attention.placed(parts[0], parts[1], parts[2], np.array([tokens])) as addresses:
        before = machine.card.free_bytes()
        attention.start(problem, addresses)
        machine.card.wait()
        taken = before - machine.card.free_bytes()
    naive = 12 * tokens * tokens * 2
    figures: Figures = {"taken_mib": taken / 2**20, "naive_scores_mib": naive / 2**20}
    return held(figures, taken <= MAX_MEMORY_SHARE * naive, "more than 5 % of naive's scores")


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


def draw(batch: int, heads: int, tokens: int) -> list[npt.NDArray[np.float32]]:
    """Queries, keys and values of shape ``(B, H, T, HEAD_DIM)``."""
    rng = np.random.default_rng(tokens)
    shape = (batch, heads, tokens, HEAD_DIM)
    return [rng.standard_normal(shape).astype(np.float32) for _ in range(3)]


def as_type(part: npt.NDArray[np.float32], dtype: Dtype) -> Array:
    """Rounded to a number type; bfloat16 as uint16."""
    if dtype == "bf16":
        return to_bfloat16(part)
    return part.astype(np.float16) if dtype == "fp16" else part


def from_type(part: Array, dtype: Dtype) -> Array:
    """Back to numbers that numpy computes with."""
    return from_bfloat16(part) if dtype == "bf16" else part.astype(np.float64)


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
    Claim("encoder-speed", "block-local is 5 times as fast at 8k tokens", check_encoder_speed),
    Claim("encoder-memory", "block-local holds less memory at 8k tokens", check_encoder_memory),
)
"""In order: what fails early explains what fails later."""
