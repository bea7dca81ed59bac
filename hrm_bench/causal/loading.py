"""Models to audit, from what one types: an object of a module, or a folder in transformers' layout."""

import difflib
import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hrm_bench.causal.reader import Step, num_required
from hrm_bench.errors import UsageError, allowed, meant


def from_module(name: str) -> Any:
    """Return the model that ``package.file:build`` names: what a callable without arguments gives, or the object.

    The folder of the command is searched first, as by ``python -m``. Raises UsageError.
    """
    word = f"module={name}"
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute):
        raise UsageError(f"{word}: must name a module and a callable in it, as in module=package.file:build")
    if str(Path.cwd()) not in sys.path and "" not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise UsageError(f"{word}: no module {error.name}, in {Path.cwd()} neither; check its name") from error
        raise UsageError(f"{word}: cannot be imported ({error}); install what it needs") from error
    except Exception as error:
        raise UsageError(f"{word}: cannot be imported ({_reason(error)}); mend the module") from error
    if not hasattr(module, attribute):
        names = [other for other in vars(module) if not other.startswith("_") and callable(vars(module)[other])]
        near = meant(difflib.get_close_matches(attribute, names, n=1))
        raise UsageError(
            f"{word}: {module_name} has no {attribute}; its callables are {allowed(names) or 'none'}{near}"
        )
    model = getattr(module, attribute)
    if callable(model) and not isinstance(model, nn.Module) and num_required(model) == 0:
        try:
            model = model()
        except Exception as error:
            raise UsageError(f"{word}: {attribute}() fails ({_reason(error)}); it must return a model") from error
    if not callable(model) and not callable(getattr(model, "step", None)):
        raise UsageError(
            f"{word}: {type(model).__name__} is not callable; must be a model, or a function that gives one"
        )
    return model


CACHES = ("cache", "past_key_values", "cache_params")  # what a cache is called, from version to version


class Pretrained:
    """A causal language model of transformers, with its cache as state."""

    def __init__(self, folder: Path) -> None:
        word = f"hf={folder}"
        try:
            import transformers
        except ImportError as error:
            raise UsageError(f"{word}: needs transformers; pip install 'hrm_bench[transformers]'") from error
        if not (folder / "config.json").is_file():
            raise UsageError(f"{word}: no config.json here; give a folder that save_pretrained has written")
        try:
            self.model = transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
        except Exception as error:
            raise UsageError(
                f"{word}: is no causal language model that transformers reads ({_reason(error)})"
            ) from error
        self.__name__ = f"{type(self.model).__name__} of {folder}"
        config = self.model.config.get_text_config()
        self.vocabulary = int(config.vocab_size)
        self.longest = getattr(config, "max_position_embeddings", None)
        accepted = inspect.signature(self.model.forward).parameters
        self._cache = next((name for name in CACHES if name in accepted), "")
        first = self.model(input_ids=torch.zeros(1, 1, dtype=torch.long), use_cache=True)
        has_cache = getattr(first, self._cache or "none", None) is not None
        self.step: Step | None = self._step if has_cache else None

    def __call__(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids=tokens, use_cache=False).logits
        return logits

    def _step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Return the logits of the next characters and the cache."""
        result = self.model(input_ids=tokens, use_cache=True, **{self._cache: state})
        return result.logits, getattr(result, self._cache)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
