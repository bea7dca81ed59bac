"""Which version of the code decides a cell's figures."""

import ast
import hashlib
import importlib.util
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omegaconf import DictConfig

PACKAGE = "hrm_bench"
MODELS = f"{PACKAGE}.models"
TASKS = f"{PACKAGE}.data.tasks"
# The modules and packages whose code decides the figures of every cell. A model's own module is added to them.
DECIDING = (
    *("charlm", "objectives", "optimizers", "steps", "layers", "data"),
    *("training.build", "training.fit", "training.averaging"),
)


def code_version(cfg: "DictConfig") -> str:
    """Return twelve hexadecimal digits that identify the code which decides a config's figures, and PyTorch's version.

    The code is that of DECIDING, and of the model, its objective, its optimizer and its callbacks, with what they
    import of other models and tasks or, if they are a user's own, of the user's package. Comments, docstrings,
    formatting and messages do not count.
    """
    targets = [str(cfg.model._target_), str(cfg.model.objective._target_)]
    targets += [str(callback["_target_"]) for callback in cfg.trainer.get("callbacks", [])]
    targets += [str(cfg.data.task._target_)] if cfg.get("data", {}).get("task") is not None else []
    targets += [cfg.recipe.optimizer] if "." in cfg.recipe.get("optimizer", "") else []
    sources = _sources([*_deciding(), *_reached(target.rpartition(".")[0] for target in targets)])
    parts = [version("torch"), *(part for name in sorted(sources) for part in (name, sources[name]))]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def _sources(modules: Iterable[str]) -> dict[str, str]:
    """Return what the code of each module does, by name."""
    return {module: _text(_parse(path)) for module in modules if (path := _path(module)) is not None}


def _deciding() -> Iterator[str]:
    """Yield the modules of DECIDING; of a package, those directly in it."""
    for name in DECIDING:
        module = f"{PACKAGE}.{name}"
        path = _path(module)
        if path is not None and path.name == "__init__.py":
            yield from (f"{module}.{file.stem}" for file in path.parent.glob("*.py") if file != path)
        else:
            yield module


def _reached(targets: Iterable[str]) -> set[str]:
    """Return the modules of some classes, with what they import of models, tasks and packages outside of ours."""
    waiting, reached = list(targets), set[str]()
    while waiting:
        module = waiting.pop()
        path = _path(module)
        if path is None or module in reached:
            continue
        reached.add(module)
        own = module.partition(".")[0]
        imported = _imported(module, ast.parse(path.read_text(encoding="utf-8")))
        waiting += [
            name
            for name in imported
            if name.startswith((f"{MODELS}.", f"{TASKS}.")) or (own != PACKAGE and name.partition(".")[0] == own)
        ]
    return reached


def _imported(module: str, tree: ast.Module) -> Iterator[str]:
    """Yield the full names of the modules that a module imports anywhere in it, and of names that are no modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), module.rpartition(".")[0])
            yield from (base, *(f"{base}.{alias.name}" for alias in node.names))


def _path(module: str) -> Path | None:
    """Return the file of a module without importing it or its packages, or None."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or spec.origin is None:
        return None
    base = Path(spec.origin).parent.joinpath(*rest) if spec.submodule_search_locations else Path(spec.origin)
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def _parse(path: Path) -> ast.Module:
    tree: ast.Module = _Bare().visit(ast.parse(path.read_text(encoding="utf-8")))
    return tree


class _Bare(ast.NodeTransformer):
    """A module's tree without what decides no figure: docstrings, what is raised, and what is logged."""

    def visit_Expr(self, node: ast.Expr) -> Any:
        match node.value:
            case ast.Constant(value=str()) | ast.Call(func=ast.Attribute(value=ast.Name(id="log"))):
                return None
        return node

    def visit_Raise(self, node: ast.Raise) -> Any:
        return ast.Raise(exc=None, cause=None)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> Any:
        """Drop the empty parts that Python 3.12.1 adds to an f-string."""
        self.generic_visit(node)
        node.values = [value for value in node.values if getattr(value, "value", None) != ""]
        return node


def _text(node: Any) -> str:
    """Write a tree in a form that no version of Python shapes: names of nodes, and their fields that are not empty."""
    if isinstance(node, ast.AST):
        fields = [(name, value) for name, value in ast.iter_fields(node) if value is not None and value != []]
        return f"{type(node).__name__}({','.join(f'{name}={_text(value)}' for name, value in fields)})"
    if isinstance(node, list):
        return f"[{','.join(map(_text, node))}]"
    return repr(node)
