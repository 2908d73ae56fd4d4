"""Measure the shape of the code: rooms, arrows between them, circles, sizes, and words that should be gone.

Run by ``make house``. Imports inside functions count, imports for type checking do not.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = {"softfree": "src", "softfree_lab": "lab/src", "softfree_runtime": "runtime/src"}


def modules(package: str) -> dict[str, Path]:
    """Return the files of a package by module name."""
    root = ROOT / PACKAGES[package]
    files = sorted((root / package).rglob("*.py"))
    names = [".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__") for file in files]
    return dict(zip(names, files, strict=True))


def imports(node: ast.AST) -> Iterator[str]:
    """Return the dotted names that a syntax tree imports, type checking left out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.ImportFrom) and child.module:
            yield child.module
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        elif isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        yield from imports(child)


def room(module: str) -> str:
    """Return the part of the house that a module lies in: a folder or file right below ``softfree``."""
    return ".".join(module.split(".")[:2])


def arrows(files: dict[str, Path]) -> dict[str, set[str]]:
    """Return for each room the rooms that it imports from."""
    found: dict[str, set[str]] = {room(module): set() for module in files}
    for module, file in files.items():
        for name in imports(ast.parse(file.read_text())):
            if name in files and room(name) != room(module) and room(name) != "softfree":
                found[room(module)].add(room(name))
    return found


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Return the groups of rooms that reach each other."""

    def reach(start: str) -> set[str]:
        seen, waiting = set(), [start]
        while waiting:
            for other in graph[waiting.pop()] - seen:
                seen.add(other)
                waiting.append(other)
        return seen

    reached = {name: reach(name) for name in graph}
    groups = {frozenset({name} | {other for other in reached[name] if name in reached[other]}) for name in graph}
    return [set(group) for group in groups if len(group) > 1]


def lines(file: Path) -> int:
    """Return the number of lines."""
    return len(file.read_text().splitlines())


def count(word: str, *folders: str) -> int:
    """Return how often a word stands in the Python and Markdown files of folders and files."""
    places = [ROOT / folder for folder in folders]
    files = [
        f
        for place in places
        for f in ([place] if place.is_file() else place.rglob("*"))
        if f.suffix in (".py", ".md", ".j2")
    ]
    return sum(len(re.findall(word, file.read_text(), re.IGNORECASE)) for file in files)


def main() -> None:
    """Print the measures as a table."""
    from softfree.cli.commands import COMMANDS

    files = modules("softfree")
    everything = [file for package in PACKAGES for file in modules(package).values()]
    graph = arrows(files)
    loops = circles(graph)
    small = [file for file in everything if lines(file) < 60 and file.name != "__init__.py"]
    volume = [
        f
        for m, f in files.items()
        if re.search(r"\bvolumes?\b", f.read_text(), re.I) and "volume" not in m and "vit3d" not in m
    ]
    rows = [
        ("rooms of softfree", len(graph)),
        ("arrows between them", sum(map(len, graph.values()))),
        ("circles of rooms", f"{len(loops)} {'; '.join(', '.join(sorted(loop)) for loop in loops)}".strip()),
        ("lines of softfree", sum(map(lines, files.values()))),
        ("lines of softfree_runtime", sum(map(lines, modules("softfree_runtime").values()))),
        ("lines of softfree_lab", sum(map(lines, modules("softfree_lab").values()))),
        ("files", len(everything)),
        ("files under 60 lines, __init__ apart", f"{len(small)} ({len(small) / len(everything):.0%})"),
        ("longest file, lines", max(map(lines, everything))),
        ("files of softfree that say volume outside its own", len(volume)),
        ("commands of softfree", sum(map(len, COMMANDS.values()))),
        (
            '"picture" in sources, docs and README',
            count("picture", "src", "lab/src", "runtime/src", "docs", "README.md"),
        ),
    ]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:{width}}  {value}")


if __name__ == "__main__":
    main()
