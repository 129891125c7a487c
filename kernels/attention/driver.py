"""A card by its driver's own library, through ctypes: HIP for AMD, the CUDA driver for NVIDIA.

Both know the same few calls by other names. Nothing here needs a compiler, PyTorch or Triton.
"""

import ctypes
import ctypes.util
from collections.abc import Callable, Mapping
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_uint, c_void_p
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kernels.attention.triton_flash import Backend

Lookup = Callable[[str, Any], Callable[..., int]]
"""From a call's name and its ctypes prototype to the call."""

KFD = Path("/sys/class/kfd/kfd/topology/nodes")
"""Where Linux lists AMD's compute nodes, processors among them."""
LIBRARIES: Mapping[Backend, tuple[str, ...]] = {
    "hip": ("amdhip64", "libamdhip64.so", "/opt/rocm/lib/libamdhip64.so"),
    "cuda": ("cuda", "libcuda.so.1"),
}
REMEDIES = {
    2: "the card's memory is full: take fewer or shorter texts",
    100: "no card: is it visible to this user (/dev/kfd, /dev/nvidia0) and to this container?",
    200: "the code object is damaged or of another kind: build it again",
    209: "the code object is for another card: build it for this one with --target",
    700: "an address is outside of the card's memory",
    701: "the launch asks for more threads, registers or shared memory than the card has",
}
"""By the number of an error, which both makers share."""

_OUT = POINTER(c_void_p)
_LAUNCH = (c_void_p, *(c_uint,) * 7, c_void_p, _OUT, _OUT)
_CALLS: Mapping[str, tuple[str, str, tuple[Any, ...]]] = {
    "init": ("hipInit", "cuInit", (c_uint,)),
    "count": ("hipGetDeviceCount", "cuDeviceGetCount", (POINTER(c_int),)),
    "name": ("hipDeviceGetName", "cuDeviceGetName", (c_void_p, c_int, c_int)),
    "allocate": ("hipMalloc", "cuMemAlloc_v2", (_OUT, c_size_t)),
    "free": ("hipFree", "cuMemFree_v2", (c_void_p,)),
    "write": ("hipMemcpyHtoD", "cuMemcpyHtoD_v2", (c_void_p, c_void_p, c_size_t)),
    "read": ("hipMemcpyDtoH", "cuMemcpyDtoH_v2", (c_void_p, c_void_p, c_size_t)),
    "load": ("hipModuleLoadData", "cuModuleLoadData", (_OUT, c_void_p)),
    "unload": ("hipModuleUnload", "cuModuleUnload", (c_void_p,)),
    "function": ("hipModuleGetFunction", "cuModuleGetFunction", (_OUT, c_void_p, c_char_p)),
    "launch": ("hipModuleLaunchKernel", "cuLaunchKernel", _LAUNCH),
    "wait": ("hipDeviceSynchronize", "cuCtxSynchronize", ()),
    "memory": ("hipMemGetInfo", "cuMemGetInfo_v2", (POINTER(c_size_t), POINTER(c_size_t))),
}
_CUDA_ONLY: Mapping[str, tuple[str, tuple[Any, ...]]] = {
    "attribute": ("cuDeviceGetAttribute", (POINTER(c_int), c_int, c_int)),
    "retain": ("cuDevicePrimaryCtxRetain", (_OUT, c_int)),
    "release": ("cuDevicePrimaryCtxRelease_v2", (c_int,)),
    "enter": ("cuCtxSetCurrent", (c_void_p,)),
    "allow": ("cuFuncSetAttribute", (c_void_p, c_int, c_int)),
}
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
_MAX_DYNAMIC_SHARED = 8
_USUAL_SHARED = 48 << 10
"""Bytes of shared memory that NVIDIA's driver gives without being asked for more."""


class DriverError(Exception):
    """A driver is missing or refused a call; the message says which, why and what to do."""


def find_library(backend: Backend) -> ctypes.CDLL:
    """The driver's library.

    Raises:
        DriverError: It is not installed; the message lists what was tried.
    """
    tried = []
    for name in LIBRARIES[backend]:
        path = name if "." in name else ctypes.util.find_library(name)
        tried.append(path or f"lib{name}")
        if path is not None:
            try:
                return ctypes.CDLL(path)
            except OSError:
                continue
    maker = "AMD's ROCm" if backend == "hip" else "NVIDIA's driver"
    raise DriverError(f"{maker} is not installed here: cannot load {', '.join(tried)}")


def lookup_in(library: ctypes.CDLL) -> Lookup:
    """The calls of a library that is loaded."""

    def lookup(name: str, prototype: Any) -> Callable[..., int]:
        try:
            call: Callable[..., int] = prototype((name, library))
        except AttributeError as missing:
            raise DriverError(f"the driver has no {name}: update it") from missing
        return call

    return lookup


def amd_targets(nodes: Path = KFD) -> list[str]:
    """The instruction sets of this machine's AMD cards, as ``gfx942``; [] without one."""
    found = []
    for properties in sorted(nodes.glob("*/properties"), key=_node_number):
        try:
            lines = properties.read_text().splitlines()
        except OSError:
            # Linux lists cards that are kept from this user; their properties cannot be read.
            continue
        for line in lines:
            name, _, value = line.partition(" ")
            if name == "gfx_target_version" and value.isdecimal() and int(value):
                found.append(_target(int(value)))
    return found


def _node_number(properties: Path) -> int:
    name = properties.parent.name
    return int(name) if name.isdecimal() else -1


def _target(version: int) -> str:
    """90402 is gfx942 and 90010 is gfx90a: minor and stepping are hexadecimal digits."""
    return f"gfx{version // 10_000}{version // 100 % 100:x}{version % 100:x}"


class Card:
    """The first card of a maker; memory and modules taken from it go back when it is left.

    Args:
        backend: Whose driver it is.
        lookup: Its calls; None: those of the library that is installed.
        target: The card's instruction set; None: what the machine says of itself.

    Raises:
        DriverError: There is no driver or no card.
    """

    def __init__(
        self, backend: Backend, *, lookup: Lookup | None = None, target: str | None = None
    ) -> None:
        self.backend = backend
        self._lookup = lookup or lookup_in(find_library(backend))
        self._calls = self._bind()
        self._memory: set[int] = set()
        self._modules: list[int] = []
        self._context = False
        self._call("init", 0)
        count = c_int()
        self._call("count", byref(count))
        if count.value < 1:
            raise DriverError(f"{backend}: {REMEDIES[100]}")
        if backend == "cuda":
            self._enter()
        self.target = target or self._own_target()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back all that was taken."""
        for address in sorted(self._memory):
            self.free(address)
        while self._modules:
            self._call("unload", self._modules.pop())
        if self._context:
            self._context = False
            self._call("release", 0)

    @property
    def name(self) -> str:
        """What the driver calls the card."""
        text = ctypes.create_string_buffer(256)
        self._call("name", text, len(text), 0)
        return text.value.decode("utf-8", "replace")

    def allocate(self, size: int) -> int:
        """The address of ``size`` bytes on the card."""
        if size < 1:
            raise ValueError(f"size is {size}: give 1 byte or more")
        address = self._pointer("allocate", size)
        self._memory.add(address)
        return address

    def free(self, address: int) -> None:
        """Give memory back."""
        self._call("free", address)
        self._memory.discard(address)

    def write(self, address: int, source: int, size: int) -> None:
        """Copy from the host's memory to the card's."""
        self._call("write", address, source, size)

    def read(self, target: int, address: int, size: int) -> None:
        """Copy from the card's memory to the host's."""
        self._call("read", target, address, size)

    def free_bytes(self) -> int:
        """Memory that is free on the card, as its driver says."""
        free, total = c_size_t(), c_size_t()
        self._call("memory", byref(free), byref(total))
        return free.value

    def load(self, code: bytes, symbol: str, *, shared_bytes: int) -> int:
        """The kernel of this name in a code object, ready for launches."""
        # The driver reads the code during the call only.
        module = self._pointer("load", ctypes.cast(ctypes.c_char_p(code), c_void_p))
        self._modules.append(module)
        function = self._pointer("function", module, symbol.encode())
        if self.backend == "cuda" and shared_bytes > _USUAL_SHARED:
            self._call("allow", function, _MAX_DYNAMIC_SHARED, shared_bytes)
        return function

    def launch(
        self,
        function: int,
        grid: tuple[int, int, int],
        *,
        threads: int,
        shared_bytes: int,
        arguments: "ctypes.Array[c_void_p]",
    ) -> None:
        """Start a kernel on the default stream; it runs on after this returns."""
        shape = (*grid, threads, 1, 1, shared_bytes)
        self._call("launch", function, *shape, None, arguments, None)

    def wait(self) -> None:
        """Wait until all that was started is done; what went wrong there is raised here."""
        self._call("wait")

    def _bind(self) -> dict[str, Callable[..., int]]:
        hip = self.backend == "hip"
        named = {key: (one[0] if hip else one[1], one[2]) for key, one in _CALLS.items()}
        if not hip:
            named |= _CUDA_ONLY
        return {
            key: self._lookup(name, ctypes.CFUNCTYPE(c_int, *types))
            for key, (name, types) in named.items()
        }

    def _pointer(self, call: str, *arguments: Any) -> int:
        found = c_void_p()
        self._call(call, byref(found), *arguments)
        return found.value or 0

    def _call(self, call: str, *arguments: Any) -> None:
        error = self._calls[call](*arguments)
        if error:
            raise DriverError(self._explain(call, error))

    def _explain(self, call: str, error: int) -> str:
        name = _CALLS[call][self.backend == "cuda"] if call in _CALLS else _CUDA_ONLY[call][0]
        remedy = REMEDIES.get(error, "its maker's reference lists the number")
        return f"{name} failed with error {error}{self._said(error)}: {remedy}"

    def _said(self, error: int) -> str:
        """The driver's own word for an error, where it has one."""
        if self.backend == "hip":
            at = self._lookup("hipGetErrorName", ctypes.CFUNCTYPE(c_void_p, c_int))(error)
        else:
            found = c_void_p()
            explain = ctypes.CFUNCTYPE(c_int, c_int, _OUT)
            self._lookup("cuGetErrorName", explain)(error, byref(found))
            at = found.value or 0
        return f" ({ctypes.string_at(at).decode()})" if at else ""

    def _enter(self) -> None:
        context = self._pointer("retain", 0)
        self._context = True
        self._call("enter", context)

    def _own_target(self) -> str:
        if self.backend == "hip":
            found = amd_targets()
            if not found:
                raise DriverError(f"{KFD} lists no AMD card that this user may see")
            return found[0]
        major, minor = c_int(), c_int()
        self._call("attribute", byref(major), _CAPABILITY_MAJOR, 0)
        self._call("attribute", byref(minor), _CAPABILITY_MINOR, 0)
        return f"sm_{major.value}{minor.value}"
