"""The preflight of a model: what a cell does with it, once, on random characters, before anything is trained.

A breach of the contract (docs/extending.md) becomes one line: the model, the method, what it gave, what is expected.
"""

import copy
import hashlib
import json
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hrm_bench.cells.cell import Cell
from hrm_bench.cells.host import undisturbed
from hrm_bench.cells.provenance import code_version
from hrm_bench.charlm import Batch, CharLM
from hrm_bench.errors import UsageError
from hrm_bench.evidence import causality, coverage, probes
from hrm_bench.layers import carried
from hrm_bench.records.schema import Leak
from hrm_bench.training.bare import without_trainer
from hrm_bench.training.build import build

LANES = 3
NUM_WRITES = 16  # after which a memory that is added to must not have grown as powers of 2 do
MOST_GROWTH = 100.0  # of the memory's norm over the second half of the writes; a sum of equal updates doubles
CLOSE = 1e-3  # relative difference of logits that rounding may make, in single precision
CONTRACT = "see the contract in docs/extending.md"


class Breach(Exception):
    """One breach of the contract: the method, what it gave, and what is expected."""


def leak_before_training(cell: Cell) -> Leak:
    """Audit the cell's architecture, built from the first seed: once per process, since no path depends on the seed."""

    def audit() -> Leak:
        model = _built(cell.config, len(cell.corpus.vocabulary))
        num_windows = causality.windows_to_audit(model, cell.config.data.windows_per_sample)
        return causality.leak(model, num_windows=num_windows)

    return cell.library.derive(cell.corpus, ("leak", architecture(cell)), audit)


def key(cell: Cell) -> str:
    """Return a digest of all that decides whether the cell's model passes: its architecture, its code and PyTorch's."""
    return hashlib.sha256(f"{architecture(cell)} {code_version(cell.config)}".encode()).hexdigest()[:16]


def architecture(cell: Cell) -> str:
    """Return what of a cell decides how its model behaves, apart from the seed and the numbers of the recipe."""
    data, recipe = cell.values["data"], cell.values["recipe"]
    values = {key: cell.values[key] for key in ("model", "memory", "scale")}
    values |= {key: data[key] for key in ("window", "windows_per_sample")}
    values |= {key: recipe[key] for key in ("optimizer", "gradient_depth")}
    return json.dumps({**values, "vocabulary": len(cell.corpus.vocabulary)}, sort_keys=True)


def check(cell: Cell) -> None:
    """Try the cell's model. Raises UsageError with the first breach of the contract.

    The process stays as it is: its random streams, for example.
    """
    with undisturbed():
        torch.set_num_threads(cell.config.trainer.num_threads)
        _check(cell)


def _check(cell: Cell) -> None:
    label = f"model={cell.config.model.name}"
    stage = ["building it"]
    torch.manual_seed(0)
    try:
        for name in _stages(cell):
            stage[:] = [name]
    except Breach as breach:
        raise UsageError(f"{label}: {breach}; {CONTRACT}") from breach
    except UsageError:
        raise
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise UsageError(f"{label}: does not fit into this machine's memory; try a smaller model.width") from error
    except Exception as error:
        message = " ".join(str(error).split()) or "without a message"
        where = _where(error, cell.config.model._target_)
        raise UsageError(
            f"{label}: {where} raised {type(error).__name__} ({message}) in the preflight, {stage[0]}; {CONTRACT}"
        ) from error


def _where(error: Exception, target: str) -> str:
    """Return the innermost function of the model's own file that an error passed through, and its line."""
    module, _, name = target.rpartition(".")
    own = Path(*module.split(".")).with_suffix(".py").name
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).name == own]
    frame = frames[-1] if frames else traceback.extract_tb(error.__traceback__)[-1]
    return f"{name}.{frame.name} (line {frame.lineno})" if frames else f"{frame.name}, called with {name},"


def _built(cfg: DictConfig, vocabulary_size: int) -> CharLM:
    """Return the model of a config, from the first seed."""
    cfg = copy.deepcopy(cfg)
    cfg.seed = 0
    return build(cfg, vocabulary_size)


def _stages(cell: Cell) -> Iterator[str]:
    """Try the model stage by stage; yield what comes next, in words."""
    cfg = cell.config
    yield "building it"
    model = _built(cfg, len(cell.corpus.vocabulary)).eval()
    if not isinstance(getattr(model, "head", None), nn.Module):
        raise Breach("has no output layer named head; set self.head in the constructor")
    if type(model).segment is CharLM.segment:
        raise Breach(f"{_method(model, 'segment')} is not defined")
    if normalised := next((n for n, module in model.named_modules() if isinstance(module, _BatchNorm)), None):
        raise Breach(f"{normalised} normalises over the lanes of a batch; a lane must not depend on other lanes")
    for length in (model.window, 1):
        yield f"running a segment of {length} characters"
        _check_segment(model, length)
    yield "reading texts of several lengths"
    _check_reading(model)
    if model.uses_memory:
        yield f"writing the memory {NUM_WRITES} times"
        _check_writes(model)
    yield "reading in double precision"
    double = copy.deepcopy(model).double()
    _expect_logits(double, "forward in double precision", double(_tokens(model, 5))[0], 5, torch.float64)
    yield "loading its weights into another model"
    _check_weights(model, cfg)
    yield "taking a training step"
    _check_training(model.vocabulary_size, cfg, num_windows=2)
    yield "auditing which loss reaches which part"
    coverage.gradient_coverage(model)
    yield "auditing whether it sees later characters"
    leak_before_training(cell)
    yield "measuring how it uses its memory"
    _, readings = probes.read(model, [_batch(model, 2 * model.window)], precision=cfg.trainer.precision)
    if cell.memory != "none":
        probes.memory_use(model, readings, readings, precision=cfg.trainer.precision)
        model.memory_course()
    yield "counting its operations on the meta device"
    probes.flops_per_character(model)


def _tokens(model: CharLM, length: int, lanes: int = LANES) -> Tensor:
    return torch.randint(model.vocabulary_size, (lanes, length))


def _batch(model: CharLM, length: int) -> Batch:
    tokens = _tokens(model, length + 1)
    return tokens[:, :-1], tokens[:, 1:]


def _method(model: CharLM, name: str) -> str:
    return f"{type(model).__name__}.{name}"


def _expect_logits(model: CharLM, call: str, logits: Any, length: int, dtype: torch.dtype = torch.float32) -> None:
    shape = (LANES, length, model.vocabulary_size)
    if not isinstance(logits, Tensor) or logits.shape != shape:
        raise Breach(f"{call} gave logits {_described(logits)}; expected the shape {shape}, (lanes, characters, V)")
    if logits.dtype != dtype:
        raise Breach(f"{call} gave {logits.dtype}; expected the parameters' {dtype}: convert no tensor to a fixed type")
    if not logits.isfinite().all():
        raise Breach(f"{call} gave logits that are not finite before any training; check how the weights are drawn")


def _described(value: Any) -> str:
    return f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"of type {type(value).__name__}"


def _leaves(method: str, value: Any, lanes: int) -> list[Tensor]:
    """Return the tensors of a memory or a state. Raises Breach if it is no tuple of tensors with the lane first."""
    if not isinstance(value, tuple):
        raise Breach(f"{method} gave a {type(value).__name__}; expected a tuple of tensors with the lane first")
    leaves = []
    for part in value:
        leaves += [part] if isinstance(part, Tensor) else _leaves(method, part, lanes)
    for leaf in leaves:
        if leaf.ndim == 0 or len(leaf) != lanes:
            raise Breach(f"{method} gave a tensor {_described(leaf)} for {lanes} lanes; expected the lane first")
    return leaves


@torch.no_grad()
def _check_segment(model: CharLM, length: int) -> None:
    """Compare what the methods of one window give with their contract."""
    tokens, segment = _tokens(model, length), _method(model, "segment")
    state, memory = model.initial_state(LANES, length), model.initial_memory(LANES)
    states = _leaves(_method(model, "initial_state"), state, LANES)
    memories = _leaves(_method(model, "initial_memory"), memory, LANES)
    if bool(memories) != model.uses_memory:
        gives = "gives tensors" if memories else "gives no tensors"
        raise Breach(f"{_method(model, 'initial_memory')} {gives}, but uses_memory is {model.uses_memory}")
    before = [tensor.clone() for tensor in (*states, *memories)]
    result = model.segment(tokens, state, memory, 0)
    if not isinstance(result, tuple) or len(result) != 3:
        given = f"a tuple of {len(result)}" if isinstance(result, tuple) else f"a {type(result).__name__}"
        raise Breach(f"{segment} gave {given}; expected a tuple of logits, state and update")
    logits, new_state, update = result
    _expect_logits(model, segment, logits, length)
    if any(not torch.equal(a, b) for a, b in zip(before, (*states, *memories), strict=True)):
        raise Breach(f"{segment} changed its state or memory in place; return new tensors")
    shapes = [tensor.shape for tensor in _leaves(f"{segment}'s state", new_state, LANES)]
    if shapes != [tensor.shape for tensor in states] and model.num_segments > 1:
        raise Breach(
            f"{segment} gave a state of shapes {_shapes(new_state)}; expected those of the first, {_shapes(state)}"
        )
    updates = _leaves(f"{segment}'s update", update, LANES)
    is_added = type(model).commit is CharLM.commit
    if is_added and [tensor.shape for tensor in updates] != [tensor.shape for tensor in memories]:
        raise Breach(
            f"{segment} gave an update of shapes {_shapes(update)}; expected the memory's, {_shapes(memory)}, to which "
            "it is added, or a method commit(memory, update)"
        )
    written = _leaves(_method(model, "commit"), model.commit(memory, update), LANES)
    if [(t.shape, t.dtype) for t in written] != [(t.shape, t.dtype) for t in memories]:
        raise Breach(f"{_method(model, 'commit')} gave a memory of other shapes or types than initial_memory")
    read = model.read_by_head(new_state)
    if read is not None and not isinstance(read, Tensor):
        raise Breach(f"{_method(model, 'read_by_head')} gave a {type(read).__name__}; expected a tensor or None")


def _shapes(values: Any) -> str:
    return ", ".join(str(tuple(tensor.shape)) for tensor in carried.tensors(values)) or "none"


@torch.no_grad()
def _check_reading(model: CharLM) -> None:
    """Compare readings of the same characters: again, in other lanes, and in batches of other sizes."""
    for length in (1, model.window + 2):
        tokens = _tokens(model, length)
        logits, memory = model(tokens)
        _expect_logits(model, _method(model, "forward"), logits, length)
        if not torch.equal(model(tokens)[0], logits):
            raise Breach(f"{_method(model, 'segment')} gave other logits for the same characters in evaluation mode")
        alone = torch.cat([model(lane[None])[0] for lane in tokens])
        if not torch.allclose(alone, logits, rtol=CLOSE, atol=CLOSE * float(logits.abs().max())):
            raise Breach(f"{_method(model, 'segment')} gave a lane other logits beside other lanes than alone")
        _leaves(_method(model, "commit"), memory, LANES)


@torch.no_grad()
def _check_writes(model: CharLM) -> None:
    """Write the same window again and again: a sum of updates grows by one of them each time."""
    tokens, memory, norms = _tokens(model, model.window), model.initial_memory(LANES), []
    for _ in range(NUM_WRITES):
        *_, last = model.refine(tokens, memory)
        memory = last.memory
        norms.append(float(model.memory_norm(memory)))
    if not norms[-1] <= MOST_GROWTH * max(norms[NUM_WRITES // 2 - 1], 1e-6):  # also if it is not a number
        raise Breach(
            f"the memory's norm grew from {norms[NUM_WRITES // 2 - 1]:.1e} to {norms[-1]:.1e} in {NUM_WRITES // 2} "
            f"windows; {_method(model, 'segment')} must return what is added to the memory, not the new memory"
        )


@torch.no_grad()
def _check_weights(model: CharLM, cfg: DictConfig) -> None:
    """Give the weights to a model of another seed, which must then read as this one does."""
    other = copy.deepcopy(cfg)
    other.seed = 1
    twin = build(other, model.vocabulary_size).eval()
    twin.load_state_dict(model.state_dict())
    tokens = _tokens(model, model.window)
    if not torch.equal(twin(tokens)[0], model(tokens)[0]):
        raise Breach(f"{type(model).__name__} keeps weights outside of its parameters and buffers, so no file has them")


def _check_training(vocabulary_size: int, cfg: DictConfig, num_windows: int) -> None:
    """Take the optimizer steps of one sample, in the middle of training."""
    model = _built(cfg, vocabulary_size)
    model.objective.schedule(model.objective.optimizers(model), 0.5)
    trained = without_trainer(model)(_batch(model, num_windows * model.window))
    name = type(model.objective).__name__
    if len(trained.losses) != num_windows:
        raise Breach(f"{name}.steps returned {len(trained.losses)} losses for {num_windows} windows; expected one each")
    if any(loss.requires_grad for loss in [*trained.losses, *carried.tensors(trained.memory)]):
        raise Breach(f"{name}.steps returned losses or a memory with a gradient; detach them")
