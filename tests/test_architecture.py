"""Who may import whom; read from the source, so that it also holds where a test imports nothing."""

import ast
import os
import subprocess
import sys
import venv
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import takewhile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("textenv", "reward_models", "agents")
MAY_IMPORT = {
    "textenv": {"textenv"},
    "reward_models": {"textenv", "reward_models"},
    "agents": {"textenv", "reward_models", "agents"},
}
CLI = "textenv.cli"


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules() -> dict[str, Path]:
    return {module_name(path): path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))}


def imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


@cache
def all_imports(path: Path) -> set[str]:
    return {name for node in ast.walk(tree(path)) for name in imported(node)}


def import_time_imports(body: list[ast.stmt]) -> Iterator[str]:
    """What importing a module imports: not what functions do later, not what only type checkers see."""
    for node in body:
        yield from imported(node)
        if isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            yield from import_time_imports(node.body + node.orelse)
        elif isinstance(node, (ast.Try, ast.With, ast.ClassDef)):
            yield from import_time_imports(node.body)


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_in_one_direction_only(room):
    wrong = []
    for name, path in modules().items():
        if name.split(".")[0] != room or name == CLI or name.startswith(CLI + "."):
            continue
        foreign = {target.split(".")[0] for target in all_imports(path)} & set(ROOMS) - MAY_IMPORT[room]
        wrong += [f"{name} imports {target}" for target in sorted(foreign)]
    assert wrong == []


def test_nothing_imports_the_command_line():
    wrong = [
        f"{name} imports {target}"
        for name, path in modules().items()
        if not name.startswith(CLI) and name != "textenv.__main__"
        for target in all_imports(path)
        if target == CLI or target.startswith(CLI + ".")
    ]
    assert wrong == []


def test_imports_are_absolute():
    relative = [
        name
        for name, path in modules().items()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert relative == []


def test_no_module_changes_the_import_path():
    assert [name for name, path in modules().items() if "sys.path" in path.read_text("utf-8")] == []


@cache
def lazy_names(package: str) -> dict[str, str]:
    """Module behind each name that a package's stub lists: importing such a name loads that module alone."""
    stub = ROOT.joinpath(*package.split("."), "__init__.pyi")
    nodes = ast.walk(tree(stub)) if stub.exists() else ()
    return {
        alias.asname or alias.name: f"{package}.{node.module}"
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
    }


def import_graph(targets_of: Callable[[Path], Iterable[str]]) -> dict[str, set[str]]:
    """Which of our modules each of them imports."""
    known = modules()

    def module_of(target: str) -> str:
        package, _, name = target.rpartition(".")
        target = lazy_names(package).get(name, target)
        while target and target not in known:
            target = target.rpartition(".")[0]
        return target

    graph = {name: {module_of(target) for target in targets_of(path)} for name, path in known.items()}
    return {name: {t for t in targets if t and not f"{name}.".startswith(f"{t}.")} for name, targets in graph.items()}


def between_neighbours(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """Which of the modules and folders beside it each module or folder imports, with all that lies in them."""
    neighbours: dict[str, set[str]] = {}
    for name, targets in graph.items():
        for target in targets:
            here, there = name.split("."), target.split(".")
            shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(here, there, strict=False)))
            if 0 < shared < min(len(here), len(there)):
                ours, theirs = (".".join(parts[: shared + 1]) for parts in (here, there))
                neighbours.setdefault(ours, set()).add(theirs)
                neighbours.setdefault(theirs, set())
    return {name: targets for name, targets in neighbours.items() if name != CLI}


def test_modules_do_not_import_each_other_in_circles():
    """Anywhere: at import, inside functions, and for type checkers."""
    assert find_cycle(import_graph(all_imports)) is None


def test_folders_do_not_import_each_other_in_circles():
    """At import: a folder or module of a room, and those beside it, whatever is deep inside them."""
    assert find_cycle(between_neighbours(import_graph(lambda path: import_time_imports(tree(path).body)))) is None


def find_cycle(graph: dict[str, set[str]]) -> list[str] | None:
    done: set[str] = set()

    def visit(name: str, trail: list[str]) -> list[str] | None:
        if name in trail:
            return trail[trail.index(name) :]
        if name in done:
            return None
        for target in sorted(graph.get(name, ())):
            if (cycle := visit(target, [*trail, name])) is not None:
                return cycle
        done.add(name)
        return None

    for start in graph:
        if (cycle := visit(start, [])) is not None:
            return cycle
    return None


@pytest.mark.parametrize(
    ("graph", "expected"), [({"a": {"b"}, "b": set()}, None), ({"a": {"b"}, "b": {"a"}}, ["a", "b"])]
)
def test_cycles_are_found(graph, expected):
    assert find_cycle(graph) == expected


def test_circles_are_seen_through_folders_stubs_and_type_checking(monkeypatch, tmp_path):
    """The checks above can fail: three circles that are none where one looks at files or at imports alone."""
    files = {
        "agents/__init__.py": "",
        "agents/low/__init__.py": "",
        "agents/low/one.py": "from agents.high.two import two",
        "agents/high/__init__.py": "lazy",
        "agents/high/__init__.pyi": "from .three import three as three",
        "agents/high/two.py": "",
        "agents/high/three.py": "if TYPE_CHECKING:\n    from agents.high.four import four",
        "agents/high/four.py": "from agents.high import three\nfrom agents.low.five import five",
        "agents/low/five.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, "utf-8")
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    lazy_names.cache_clear()
    everywhere = import_graph(all_imports)
    at_import = import_graph(lambda path: import_time_imports(tree(path).body))
    lazy_names.cache_clear()
    assert find_cycle(everywhere) == ["agents.high.four", "agents.high.three"]
    assert find_cycle(at_import) is None
    assert find_cycle(between_neighbours(at_import)) == ["agents.high", "agents.low"]


@pytest.mark.parametrize("module", ["textenv", "textenv.envs.toy", "textenv.wrappers.vector"])
def test_importing_the_environments_loads_no_model_library(module):
    program = (
        f"import sys, {module}; "
        "print([name for name in ('torch', 'transformers', 'stable_baselines3', 'pandas') if name in sys.modules])"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    assert printed.strip() == "[]"


def test_rooms_of_textenv_can_be_reached_as_attributes():
    program = "import textenv; print(textenv.wrappers.LengthPenalty.__name__, textenv.rewards.__name__)"
    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    assert printed.split() == ["LengthPenalty", "textenv.rewards"]


def test_our_packages_are_ours():
    """The package ``openai-agents`` installs an import package ``agents`` too."""
    program = "import agents, reward_models, textenv; print(agents.__file__, reward_models.__file__, textenv.__file__)"
    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    assert [Path(path).parent.parent for path in printed.split()] == [ROOT] * 3


@pytest.mark.network
def test_an_editable_install_is_found_beside_a_folder_of_the_same_name(tmp_path):
    """A clone is called textenv, and people work in the folder that holds it."""
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", "--editable", ROOT], check=True)
    (tmp_path / "textenv").symlink_to(ROOT)
    program = "import importlib.util; print(importlib.util.find_spec('textenv').origin)"
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    found = subprocess.run(
        [python, "-c", program], cwd=tmp_path, env=outside, capture_output=True, text=True, check=True
    ).stdout
    assert Path(found.strip()) == ROOT / "textenv" / "__init__.py"
