"""Growth is a decision: the tail of module and function lengths is bounded."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = (
    "bench",
    "controlplane",
    "edge",
    "feedback",
    "kernels",
    "learners",
    "storage",
    "workers",
)
MAX_MODULE_LINES = 450
MAX_FUNCTION_LINES = 60
SHOWN = 10

Sizes = list[tuple[int, str]]


def modules() -> Iterator[Path]:
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "_migrations" not in path.parts:  # the wheel's copy, when a build leaves one
                yield path


def module_sizes() -> Sizes:
    return sorted(
        ((len(path.read_text().splitlines()), str(path.relative_to(ROOT))) for path in modules()),
        reverse=True,
    )


def function_sizes() -> Sizes:
    sizes = []
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                sizes.append((lines, f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"))
    return sorted(sizes, reverse=True)


def too_long(sizes: Sizes, limit: int) -> Sizes:
    print(f"\nlargest (at most {limit}):")
    for lines, name in sizes[:SHOWN]:
        print(f"{lines:5} {name}")
    return [(lines, name) for lines, name in sizes if lines > limit]


def test_no_module_is_longer_than_the_limit():
    assert too_long(module_sizes(), MAX_MODULE_LINES) == []


def test_no_function_is_longer_than_the_limit():
    assert too_long(function_sizes(), MAX_FUNCTION_LINES) == []
