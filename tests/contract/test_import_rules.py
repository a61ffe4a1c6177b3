"""Imports run one way: reports.model <- auditor <- wings, and inside auditor from the roof down."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WINGS = ("attacks", "defenses", "watermark")
GROUND = ("errors", "text", "caps", "contracts", "registry", "stats", "banks")
FLOORS = (
    *("artifact", "pipeline", "world", "metrics", "personalize", "probes"),
    *("engine", "policy", "proving", "cli"),
)  # fmt: skip
TORCH_FREE = (
    "errors",
    "text",
    "caps",
    "contracts",
    "registry",
    "stats",
    "banks",
    "artifact",
    "engine",
    "policy",
    "cli",
    "probes",
)
HEAVY = {"torch", "torchvision", "diffusers", "transformers", "peft", "open_clip", "accelerate"}
FILES = sorted(
    path
    for package in ("auditor", "reports", *WINGS)
    for path in (ROOT / package).rglob("*.py")
    if "__pycache__" not in path.parts
)


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path, top_level_only=False):
    """Modules that a file imports; those for type checking only are left out."""
    return list(_walk(ast.parse(path.read_text("utf-8")), path, top_level_only))


def _walk(node, path, top_level_only):
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield from _absolute(child, path)
        elif not _left_out(child, top_level_only):
            yield from _walk(child, path, top_level_only)


def _left_out(node, top_level_only):
    if isinstance(node, ast.If):
        return "TYPE_CHECKING" in ast.unparse(node.test)
    return top_level_only and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))


def _absolute(node, path):
    if node.level:
        package = module_of(path).split(".")
        cut = node.level - (path.name == "__init__.py")
        base = package[: len(package) - cut] if cut else package
        stem = ".".join([*base, *([node.module] if node.module else [])])
    else:
        stem = node.module
    yield stem
    yield from (f"{stem}.{alias.name}" for alias in node.names)


def floor_of(module):
    """How high a module of auditor stands: 0 for the ground floor; None for the package itself."""
    parts = module.split(".")
    if len(parts) < 2:
        return None
    if parts[1] in GROUND:
        return 0
    return 1 + FLOORS.index(parts[1]) if parts[1] in FLOORS else None


def test_every_folder_has_its_floor():
    found = {path.name.removesuffix(".py") for path in (ROOT / "auditor").iterdir()}
    found = {
        name for name in found if not name.startswith(("_", ".")) and name != "typed" and "." not in name
    }
    assert found <= {*GROUND, *FLOORS}


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_run_one_way(path):
    module = module_of(path)
    top = module.split(".")[0]
    for name in imported(path):
        target = name.split(".")[0]
        if top == "reports":
            assert target not in ("auditor", *WINGS), f"{module} imports {name}"
        if top == "auditor":
            assert target not in WINGS, f"{module} imports {name}"
            mine, theirs = floor_of(module), floor_of(name) if target == "auditor" else None
            if mine is not None and theirs is not None:
                assert theirs <= mine, f"{module} imports {name}, which stands above it"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_nothing_below_the_models_imports_torch_when_it_is_imported(path):
    module = module_of(path)
    top, _, rest = module.partition(".")
    if top == "reports" or (top == "auditor" and rest.split(".")[0] in TORCH_FREE):
        heavy = {name for name in imported(path, top_level_only=True) if name.split(".")[0] in HEAVY}
        assert not heavy, f"{module} imports {sorted(heavy)} at its top"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_nobody_unpickles(path):
    assert not {"pickle", "dill", "joblib", "shelve", "marshal"} & {
        name.split(".")[0] for name in imported(path)
    }


def test_the_rules_see_a_breach(tmp_path, monkeypatch):
    monkeypatch.setattr(__name__ + ".ROOT", tmp_path)
    (tmp_path / "auditor" / "stats").mkdir(parents=True)
    path = tmp_path / "auditor" / "stats" / "bad.py"
    path.write_text("def f():\n    from auditor.cli import main\n")
    with pytest.raises(AssertionError, match="stands above"):
        test_imports_run_one_way(path)
    path.write_text("import attacks.cli\n")
    with pytest.raises(AssertionError, match="imports attacks"):
        test_imports_run_one_way(path)
    path.write_text("import torch\n")
    with pytest.raises(AssertionError, match="at its top"):
        test_nothing_below_the_models_imports_torch_when_it_is_imported(path)
