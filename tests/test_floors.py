"""The house of docs/architecture.md: imports go down only, and heavy or dangerous libraries stay in their rooms."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "ui": {"service", "core"},
    "service": {"data", "core"},
    "engine": {"model", "data", "flow", "core"},
    "model": {"flow", "core"},
    "data": {"core"},
    "flow": set(),
    "core": set(),
}
FILES = sorted((PROJECT / "zit_app").rglob("*.py"))
WITHOUT_TORCH = {"core", "service", "data", "ui"}


def room(file: Path) -> str:
    """The package of a file below zit_app, "" for those beside the packages (cli.py and its commands)."""
    parts = file.relative_to(PROJECT / "zit_app").parts
    return parts[0] if len(parts) > 1 and parts[0] != "commands" else ""


def imported(node: ast.AST) -> set[str]:
    """Full names of all modules that are imported anywhere below a node, in functions too."""
    names = set()
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            names |= {alias.name for alias in child.names}
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"relative import in line {child.lineno}: the floor cannot be seen"
            names |= {f"{child.module}.{alias.name}" for alias in child.names}
    return names


def libraries(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def rooms_of(names: set[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith("zit_app.")}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PROJECT)))
def test_a_file_imports_only_what_its_room_may(file: Path) -> None:
    tree, own = ast.parse(file.read_text(encoding="utf-8")), room(file)
    names = imported(tree)
    found = libraries(names)
    if own:
        assert own in MAY_IMPORT, f"{own} is no room of the house"
        assert rooms_of(names) <= MAY_IMPORT[own] | {own}
    if own in WITHOUT_TORCH:
        assert not found & {"torch", "diffusers", "transformers", "peft", "accelerate", "safetensors"}
    if own != "ui":
        assert "gradio" not in found
    if own == "core":
        assert found - {"zit_app", "tomlkit", "tomli", "platformdirs"} <= sys.stdlib_module_names
    if own == "flow":
        assert not found & {"os", "pathlib", "io", "logging", "json"}
    assert not found & {"pickle", "dill", "joblib", "shelve"}
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not calls & {"torch.load", "torch.save"}, "no pickle is ever read or written"


@pytest.mark.parametrize("file", ["cli.py", *(f"commands/{f.name}" for f in PROJECT.glob("zit_app/commands/*.py"))])
def test_the_command_line_imports_libraries_only_where_a_command_needs_them(file: str) -> None:
    tree = ast.parse((PROJECT / "zit_app" / file).read_text(encoding="utf-8"))
    later = (ast.FunctionDef, ast.If)  # what a command imports, and names that only the type checker needs
    at_start = imported(ast.Module([node for node in tree.body if not isinstance(node, later)], []))
    assert libraries(at_start) - {"zit_app"} <= sys.stdlib_module_names
    assert rooms_of(at_start) <= {"core", "commands"}


def test_setup_runs_on_a_bare_python() -> None:
    code = "import runpy, sys; sys.path.insert(0, sys.argv[1]); runpy.run_module('launch'); print(*sys.modules)"
    command = [sys.executable, "-I", "-S", "-c", code, str(PROJECT)]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True)
    assert libraries(set(loaded.stdout.split())) <= sys.stdlib_module_names | {"__main__", "zit_app"}


def test_rooms_without_torch_do_not_get_it_from_below() -> None:
    modules = [
        ".".join(file.relative_to(PROJECT).with_suffix("").parts)
        for file in FILES
        if room(file) in WITHOUT_TORCH - {"ui"} and file.name != "__init__.py"
    ]
    code = f"import sys, {', '.join(modules)}; print(sorted({{'torch', 'gradio'}} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT)
    assert ran.stdout.strip() == "[]"


def test_the_picture_of_the_house_shows_this_table() -> None:
    text = (PROJECT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for name, below in MAY_IMPORT.items():
        line = next(line for line in text.splitlines() if line.startswith(f"| `zit_app/{name}/` |"))
        assert set(line.split("|")[2].replace(",", " ").split()) - {"–"} == below
