"""Which version of the code a cell's figures come from."""

import ast
import functools
import hashlib
import importlib.util
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from omegaconf import DictConfig

ROOT = "hrm_bench.cells.scoring"
# What only plans, shows or carries cells, and changes none of their figures.
APART = (
    *("cells.provenance", "cells.run", "cells.trackers", "config", "errors", "network", "records", "report", "sweeps"),
    *("training.progress", "training.snapshots", "training.stopping"),
)


def code_version(cfg: DictConfig) -> str:
    """Twelve hexadecimal digits of the code that a config's figures follow from, and of the version of PyTorch.

    The code is that of the model, of its objective, and of what trains and scores them, with all that these import of
    their own packages. Comments, docstrings and formatting do not count; nor do other models.
    """
    targets = (str(cfg.model._target_), str(cfg.model.objective._target_))
    return _digest(tuple(sorted({ROOT, *(target.rpartition(".")[0] for target in targets)})))


@functools.cache
def _digest(roots: tuple[str, ...]) -> str:
    packages = {root.partition(".")[0] for root in roots}
    skipped = {f"hrm_bench.{part}" for part in APART}
    waiting, found = list(roots), dict[str, str]()
    while waiting:
        module = waiting.pop()
        path = _path(module)
        of_skipped = module == "hrm_bench" or skipped & {module, ".".join(module.split(".")[:2])}
        if module in found or path is None or of_skipped:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        waiting += [name for name in _imported(module, tree) if name.partition(".")[0] in packages]
        found[module] = ast.dump(_bare(tree))
    told = [version("torch"), *(part for module in sorted(found) for part in (module, found[module]))]
    return hashlib.sha256("\0".join(told).encode()).hexdigest()[:12]


def _imported(module: str, tree: ast.Module) -> Iterator[str]:
    """The modules that a module imports anywhere in it, by their full names; also names in them that are none."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), module.rpartition(".")[0])
            yield from (base, *(f"{base}.{each.name}" for each in node.names))


def _path(module: str) -> Path | None:
    """A module's source, found without importing what it is in; None where there is none."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or spec.origin is None:
        return None
    base = Path(spec.origin).parent.joinpath(*rest) if spec.submodule_search_locations else Path(spec.origin)
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def _bare(tree: ast.Module) -> ast.Module:
    """The tree without its docstrings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            match node.body:
                case [ast.Expr(value=ast.Constant(value=str())), *rest]:
                    node.body = rest
    return tree
