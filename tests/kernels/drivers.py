"""A card that is not there: its driver's calls, answered in the host's memory.

The calls arrive through ctypes as a real driver's would, so what is packed is read back as a
card reads it. A launch runs the oracle. What a real driver refuses is refused.
"""

import ctypes
import re
from collections.abc import Mapping
from ctypes import POINTER, c_float, c_int32, c_void_p
from typing import Any

import numpy as np

from kernels.attention.reference import attend
from kernels.attention.trials import as_type, from_type
from kernels.attention.triton_flash import DTYPES, LOG2_E, Dtype

CODE = b"a code object of this test"
CODES: dict[bytes, Dtype] = {
    CODE: "fp32",
    CODE.replace(b"object", b"halves"): "fp16",
    CODE.replace(b"object", b"brains"): "bf16",
}
"""Code objects that the card takes, by default, and the number type of each."""
OTHER_CARD = 209
INVALID = 1
NO_CARD = 100
FUNCTIONS = 90
"""The handle of the first number type's kernel; the others' follow."""
FUNCTIONS_THERE = range(FUNCTIONS, FUNCTIONS + len(DTYPES))
NUMPY_TYPES = {"fp32": np.float32, "fp16": np.float16, "bf16": np.uint16}


class PretendCard:
    """``calls`` is a :data:`kernels.attention.driver.Lookup`; ``fail`` makes a call return this.

    ``error`` is added to each result of a launch; ``codes`` are what the card takes.
    """

    def __init__(
        self,
        *,
        cards: int = 1,
        queries: int = 64,
        capability: tuple[int, int] = (9, 0),
        fail: dict[str, int] | None = None,
        head_dim: int = 32,
        error: float = 0.0,
        codes: Mapping[bytes, Dtype] | None = None,
    ) -> None:
        self.cards, self.queries, self.capability = cards, queries, capability
        self.fail, self.head_dim, self.error = fail or {}, head_dim, error
        self.codes = dict(codes or CODES)
        self.memory: dict[int, Any] = {}
        self.modules: dict[int, Dtype] = {}
        self.retained = 0
        self.shared_allowed = 48 << 10
        self.launches: list[tuple[int, ...]] = []
        self.names: list[str] = []
        self._kept: list[Any] = []

    def calls(self, name: str, prototype: Any) -> Any:
        self.names.append(name)
        plain = name.removeprefix("hip").removeprefix("cu").removesuffix("_v2")
        words = re.findall(r"[A-Z]+(?=[A-Z][a-z]|$)|[A-Z][a-z]+", plain)
        answer = getattr(self, f"answer_{'_'.join(words).lower()}")

        def answered(*arguments: Any) -> int:
            return self.fail.get(plain) or answer(*arguments) or 0

        call = prototype(answered)
        self._kept.append(call)
        return call

    def answer_init(self, flags: int) -> int:
        return NO_CARD if self.cards == 0 and flags == 0 else 0

    def answer_get_device_count(self, count: Any) -> None:
        count[0] = self.cards

    answer_device_get_count = answer_get_device_count

    def answer_device_get_name(self, text: int, size: int, _: int) -> None:
        ctypes.memmove(text, b"Pretend 300\0"[:size], 12)

    def answer_device_get_attribute(self, value: Any, which: int, _: int) -> None:
        value[0] = self.capability[which - 75]

    def answer_device_primary_ctx_retain(self, context: Any, _: int) -> None:
        self.retained += 1
        context[0] = 7

    def answer_device_primary_ctx_release(self, _: int) -> None:
        self.retained -= 1

    def answer_ctx_set_current(self, context: int) -> int:
        return 0 if context == 7 else INVALID

    def answer_malloc(self, address: Any, size: int) -> None:
        room = ctypes.create_string_buffer(size + 256)
        start = -(-ctypes.addressof(room) // 256) * 256
        self.memory[start] = (room, size)
        address[0] = start

    answer_mem_alloc = answer_malloc

    def answer_free(self, address: int) -> int:
        return 0 if self.memory.pop(address, None) else INVALID

    answer_mem_free = answer_free

    def answer_memcpy_hto_d(self, target: int, source: int, size: int) -> int:
        if target not in self.memory or size > self.memory[target][1]:
            return INVALID
        ctypes.memmove(target, source, size)
        return 0

    def answer_memcpy_dto_h(self, target: int, source: int, size: int) -> int:
        if source not in self.memory or size > self.memory[source][1]:
            return INVALID
        ctypes.memmove(target, source, size)
        return 0

    def answer_module_load_data(self, module: Any, image: int) -> int:
        size = min(map(len, self.codes))  # how long the image is, a driver is not told
        begins = ctypes.string_at(image, size)
        dtype = next((kind for code, kind in self.codes.items() if code[:size] == begins), None)
        if dtype is None:
            return OTHER_CARD
        module[0] = 40 + len(self.modules)
        self.modules[module[0]] = dtype
        return 0

    def answer_module_unload(self, module: int) -> int:
        del self.modules[module]
        return 0

    def answer_module_get_function(self, function: Any, module: int, name: bytes) -> int:
        if module not in self.modules or name != b"flash_attention":
            return 500
        function[0] = FUNCTIONS + DTYPES.index(self.modules[module])
        return 0

    def answer_func_set_attribute(self, function: int, which: int, size: int) -> int:
        self.shared_allowed = size
        return 0 if function in FUNCTIONS_THERE and which == 8 else INVALID

    def answer_mem_get_info(self, free: Any, total: Any) -> None:
        total[0] = 1 << 30
        free[0] = total[0] - sum(size for _, size in self.memory.values())

    def answer_device_synchronize(self) -> None:
        """All is done already."""

    answer_ctx_synchronize = answer_device_synchronize

    def answer_get_error_name(self, error: int, text: Any = None) -> int:
        name = ctypes.create_string_buffer(f"errorNumber{error}".encode())
        self._kept.append(name)
        if text is None:
            return ctypes.addressof(name)
        text[0] = ctypes.addressof(name)
        return 0

    def answer_module_launch_kernel(self, function: int, *rest: Any) -> int:
        *shape, stream, arguments, extra = rest
        self.launches.append(tuple(shape))
        if function not in FUNCTIONS_THERE or stream or extra or shape[6] > self.shared_allowed:
            return INVALID
        return self.run(DTYPES[function - FUNCTIONS], shape, arguments)

    answer_launch_kernel = answer_module_launch_kernel

    def run(self, dtype: Dtype, shape: list[int], arguments: Any) -> int:
        kinds = [c_void_p] * 5 + [c_int32] * 3 + [c_float] + [c_void_p] * 2
        values = [ctypes.cast(arguments[at], POINTER(kind))[0] for at, kind in enumerate(kinds)]
        query, key, value, lengths, out, heads, tokens, window, scale, *scratch = values
        rows = shape[1]
        if shape[0] != -(-tokens // self.queries) or rows % heads or scratch != [None, None]:
            return INVALID
        whole = (rows // heads, heads, tokens, self.head_dim)
        kind = NUMPY_TYPES[dtype]
        parts = [from_type(self.array(at, kind, whole), dtype) for at in (query, key, value)]
        real = self.array(lengths, np.int32, whole[:1])
        found = attend(*parts, lengths=real, window=window, scale=scale / LOG2_E)
        self.array(out, kind, whole)[...] = as_type(found + self.error, dtype)
        return 0

    def array(self, address: int, dtype: Any, shape: tuple[int, ...]) -> Any:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        assert self.memory[address][1] == size
        return np.frombuffer((ctypes.c_char * size).from_address(address), dtype).reshape(shape)
