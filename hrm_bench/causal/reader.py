"""A language model as the audit reads it: whole or in pieces, in its own precision or in double precision.

Shapes: B lanes, T characters, V vocabulary.
"""

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hrm_bench.causal import changes
from hrm_bench.causal.changes import Gap
from hrm_bench.errors import UsageError

Step = Callable[[Tensor, Any], tuple[Any, Any]]
NOISE_FACTOR = 8  # times the noise of reading the same again


class Reader:
    """A model from tokens (B, T) to outputs (B, T, V)."""

    def __init__(
        self, model: Any, step: Step | bool | None, *, vocabulary: int, output: str, device: Any, longest: int
    ) -> None:
        """Find out how the model is called.

        Args:
            model: a callable of tokens, or an object with a method ``step(tokens, state)``, or both.
            step: a callable of tokens and state; None for the model's own; False to leave its own out.
            vocabulary: V.
            output: "logits" or "probabilities".
            device: of the tokens; None for that of the model's first parameter.
            longest: the most characters that it is to read.
        """
        self.given = (model, step)
        self.name = getattr(model, "__name__", type(model).__name__)
        self.vocabulary, self.output, self.longest = vocabulary, output, longest
        own_step = getattr(model, "step", None)
        if step is None and callable(own_step):
            step = own_step
        elif step is None and _takes_a_state(model):
            model, step = None, model
        self.step: Step | None = step if callable(step) else None
        is_bare = isinstance(model, nn.Module) and type(model).forward is nn.Module.forward
        self.model = model if callable(model) and not is_bare else None
        if self.model is None and self.step is None:
            raise UsageError(f"{self.name}: must be a callable of tokens, or have a method step(tokens, state)")
        self.modules = _modules(model, self.step)
        tensors = [tensor for module in self.modules for tensor in (*module.parameters(), *module.buffers())]
        self.device = device or (tensors[0].device if tensors else torch.device("cpu"))
        self.is_double = all(t.dtype == torch.float64 for t in tensors if t.is_floating_point())
        self.noise = 0.0  # relative, of reading the same text again

    def whole(self, tokens: Tensor) -> Tensor:
        """Return the outputs of one call on whole texts."""
        if self.model is None:
            return self.in_pieces(tokens, tokens.shape[1])
        return self._outputs(self._call(self.model, tokens), tokens)

    def in_pieces(self, tokens: Tensor, size: int) -> Tensor:
        """Return the outputs of calls on ``size`` characters each, with the state between."""
        assert self.step is not None
        state, outputs = None, []
        for part in tokens.split(size, dim=1):
            result = self._call(self.step, part, state)
            if not isinstance(result, tuple | list) or len(result) != 2:
                raise UsageError(f"{self.name}: step(tokens, state) must return two things, an output and a state")
            output, state = result
            outputs.append(self._outputs(output, part))
        return torch.cat(outputs, dim=1)

    def compare(self, outputs: Tensor, reference: Tensor) -> Gap:
        """Return how far outputs are from their reference."""
        return changes.gap(outputs, reference, usual=1 / self.vocabulary if self.output == "probabilities" else None)

    @property
    def tolerance(self) -> float:
        """The largest relative change that may be rounding, given the noise of reading the same again."""
        return max(self.rounding, NOISE_FACTOR * self.noise)

    @property
    def rounding(self) -> float:
        """The largest relative change that rounding alone makes: 6e-6 in single precision, 2e-12 in double."""
        return self.epsilon**0.75

    @cached_property
    def epsilon(self) -> float:
        """The rounding of the lowest precision in which the model computes anything."""
        with _Precisions() as seen:
            self.whole(torch.zeros(2, self.longest, dtype=torch.long, device=self.device))
        return seen.epsilon

    def in_double(self) -> "Reader | None":
        """Return a copy in double precision; None if there is none that runs, or if the model is double already."""
        if not self.modules or self.is_double:
            return None
        try:
            model, step = copy.deepcopy(self.given)
            options = {name: getattr(self, name) for name in ("vocabulary", "output", "device", "longest")}
            reader = Reader(model, step, **options)
            if {id(module) for module in reader.modules} & {id(module) for module in self.modules}:
                return None  # what holds the modules cannot be copied
            for module in reader.modules:
                module.double()
            return reader if reader.epsilon < self.epsilon else None
        except Exception:  # whatever a foreign model does that is written for one precision
            return None

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except UsageError:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            shape = tuple(arguments[0].shape)
            raise UsageError(
                f"{self.name}: fails on tokens of shape {shape} below {self.vocabulary} ({reason}); "
                "give a vocabulary and a length that it reads"
            ) from error

    def _outputs(self, result: Any, tokens: Tensor) -> Tensor:
        """Return the outputs in what a model has returned: a tensor, the first of a tuple, or ``.logits``."""
        output = result[0] if isinstance(result, tuple | list) and result else getattr(result, "logits", result)
        expected = (*tokens.shape, self.vocabulary)
        if not isinstance(output, Tensor):
            raise UsageError(f"{self.name}: gives {type(output).__name__}; must give a tensor of shape {expected}")
        if output.shape != expected or not output.is_floating_point():
            kind = f"{tuple(output.shape)} of {output.dtype}"
            raise UsageError(
                f"{self.name}: gives {kind} for tokens of shape {tuple(tokens.shape)}; "
                f"must give {expected} of a floating-point type, the last being the vocabulary"
            )
        output = output.detach().clone()  # which a model may write into again
        return output.float() if output.element_size() < 4 else output


@contextmanager
def evaluation(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Put modules and their parts into evaluation mode, without gradients, and restore each part's mode afterwards."""
    modules = [*modules]
    modes = [(part, part.training) for module in modules for part in module.modules()]
    try:
        for module in modules:
            module.eval()
        with torch.no_grad():
            yield
    finally:
        for part, mode in modes:
            part.training = mode


class _Precisions(TorchDispatchMode):
    """A context that notes the coarsest rounding of any result."""

    epsilon = torch.finfo(torch.float64).eps

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex()):
                self.epsilon = max(self.epsilon, torch.finfo(value.dtype).eps)
        return result


def _takes_a_state(model: Any) -> bool:
    """Return whether a callable that is no module needs two arguments."""
    if isinstance(model, nn.Module) or not callable(model):
        return False
    return num_required(model) == 2


def num_required(function: Callable[..., Any]) -> int | None:
    """Return how many arguments a callable needs; None if it does not say."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(parameter.kind in positional and parameter.default is parameter.empty for parameter in parameters)


def _modules(*objects: Any) -> list[nn.Module]:
    """Return the modules that these are, or are methods of, or hold as attributes, or are closures over."""
    modules: dict[int, nn.Module] = {}
    for one in objects:
        owner = getattr(one, "__self__", one)
        closure = [cell.cell_contents for cell in getattr(one, "__closure__", None) or ()]
        for value in (owner, *getattr(owner, "__dict__", {}).values(), *closure):
            if isinstance(value, nn.Module):
                modules[id(value)] = value
    return [*modules.values()]
