"""Operations on what a lane carries from window to window, whatever its shape.

A memory is a tuple: plain or a NamedTuple, of tensors or of such tuples again. The first axis of each tensor is the
lane. Only this file and the layer or model that owns a memory know what is in it; ``()`` is the memory of a model that
has none.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

Memory = tuple[Any, ...]  # of tensors with the lane first, or of tuples like it


def tensors(memory: Memory) -> list[Tensor]:
    """Return all tensors of a memory, in a fixed order."""
    return list(_leaves(memory))


def rebuilt(like: Memory, values: Sequence[Tensor]) -> Memory:
    """Return ``values``, as ``tensors`` gave them, in the shape of the memory ``like``."""
    remaining = iter(values)
    memory = _mapped(lambda _: next(remaining), like)
    if next(remaining, None) is not None:
        raise ValueError("there are more tensors than the memory has")
    return memory


def num_lanes(memory: Memory) -> int | None:
    """Return the number of lanes, or None for a memory without tensors."""
    return next((len(tensor) for tensor in _leaves(memory)), None)


def numel(memory: Memory) -> int:
    """Return how many numbers a memory holds, all lanes together."""
    return sum(tensor.numel() for tensor in _leaves(memory))


def lanes(memory: Memory, start: int, stop: int) -> Memory:
    """Return the lanes from ``start`` to before ``stop``."""
    return _mapped(lambda tensor: tensor[start:stop], memory)


def select(memory: Memory, indices: Tensor) -> Memory:
    """Return the lanes that (B,) ``indices`` name, in their order."""
    return _mapped(lambda tensor: tensor[indices], memory)


def join(memories: Sequence[Memory]) -> Memory:
    """Return one memory with the lanes of all of these, one after another."""
    return _mapped(lambda *parts: torch.cat(parts), *memories)


def expand(memory: Memory, num_lanes: int) -> Memory:
    """Return ``num_lanes`` lanes, each a view of the only one of ``memory``."""
    return _mapped(lambda tensor: tensor.expand(num_lanes, *tensor.shape[1:]), memory)


def where(mask: Tensor, new: Memory, old: Memory) -> Memory:
    """Return ``new`` in the lanes in which (B,) ``mask`` is true and ``old`` in the others.

    Either may have one lane only, which then stands for all.
    """

    def chosen(one: Tensor, other: Tensor) -> Tensor:
        return torch.where(mask.reshape(-1, *[1] * (one.ndim - 1)), one, other)

    return _mapped(chosen, new, old)


def added(memory: Memory, update: Memory) -> Memory:
    """Return the sum of two memories, tensor by tensor."""
    return _mapped(torch.add, memory, update)


def detach(memory: Memory) -> Memory:
    """Return the same values without their gradient."""
    return _mapped(Tensor.detach, memory)


def norm(memory: Memory) -> Tensor:
    """Return the Euclidean norm of all that a lane holds, mean over lanes."""
    lengths = [torch.linalg.vector_norm(tensor.reshape(len(tensor), -1), dim=1) for tensor in _leaves(memory)]
    return torch.linalg.vector_norm(torch.stack(lengths), dim=0).mean()


def _leaves(memory: Memory | Tensor) -> Iterator[Tensor]:
    if isinstance(memory, Tensor):
        yield memory
    else:
        for part in memory:
            yield from _leaves(part)


def _mapped(function: Callable[..., Tensor], *memories: Any) -> Any:
    """Apply ``function`` to the tensors that have the same position in all of these memories."""
    first = memories[0]
    if isinstance(first, Tensor):
        return function(*memories)
    parts = [_mapped(function, *parts) for parts in zip(*memories, strict=True)]
    return type(first)(*parts) if hasattr(first, "_fields") else tuple(parts)
