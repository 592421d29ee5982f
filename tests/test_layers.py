"""Imports go down the house, never up or round (ARCHITECTURE.md, "Layers")."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "tutee"

ROWS = [
    {"cli", "__main__"},
    {"improve", "worker", "serve"},
    {"train", "evaluate", "agent"},
    {"data", "grade", "safety"},
    {"engine", "store"},
    {"model"},
    {"conversation", "settings", "errors", "ids", "intervals", "json_lines", "lock", "__init__"},
]
SAME_ROW_ALLOWED = {
    ("worker", "improve"),
    ("data", "safety"),
    ("settings", "errors"),
    ("conversation", "errors"),
    ("json_lines", "errors"),
    ("lock", "errors"),
    ("__main__", "cli"),
}
FORBIDDEN = {("serve", "train")}  # a crash in training cannot take the chat down: they meet in store/ only
FILES = sorted(path for path in PACKAGE.rglob("*.py") if "migrations/versions" not in path.as_posix())


def modules_imported(path: Path) -> set[str]:
    """Full names of the tutee modules that a file imports anywhere, also inside functions and TYPE_CHECKING."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import on line {node.lineno}; write the whole name"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] == "tutee" and "." in name}


def room(name: str) -> str:
    """`tutee.model.decoder` and `tutee/model/decoder.py` both live in the room `model`."""
    return name.split(".")[1]


def row(name: str) -> int:
    return next((i for i, rooms in enumerate(ROWS) if name in rooms), 0 if name == "__version__" else -1)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_file_imports_only_from_below(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert row(own) >= 0, f"{own} has no row in ROWS"
    for name in modules_imported(path):
        other = room(name)
        if other in (own, "__version__"):
            continue
        assert row(other) >= 0, f"{path} imports {name}, which has no row in ROWS"
        assert (own, other) not in FORBIDDEN, f"{own} must not import {other}"
        assert row(other) > row(own) or (own, other) in SAME_ROW_ALLOWED, f"{path} imports {name} from above or beside"


def test_no_cycle_inside_a_room() -> None:
    known = {"tutee." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in FILES}
    graph = {
        name: {
            other
            for target in modules_imported(path)
            for other in (target, target.rpartition(".")[0])
            if other in known
        }
        - {name}
        for name, path in known.items()
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name not in done:
            for other in graph[name]:
                visit(other, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())
