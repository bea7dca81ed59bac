"""What a cell's record says of its trained model."""

import functools
import logging
import resource
import time
from pathlib import Path

import torch
from omegaconf import DictConfig

from hrm_bench import audit
from hrm_bench.charlm import CharLM
from hrm_bench.config.identity import memory_mode
from hrm_bench.data import corpora
from hrm_bench.data.windows import Samples
from hrm_bench.evidence import probes
from hrm_bench.evidence.measures import Score, score
from hrm_bench.floors import floors
from hrm_bench.records.schema import Floors, Record
from hrm_bench.training import ranks, snapshots
from hrm_bench.training.build import MOST_COUNTED, build, load_windows
from hrm_bench.training.fit import characters_per_epoch, fit, make_trainer
from hrm_bench.training.recorder import Recorder

log = logging.getLogger("hrm_bench")


def train_and_score(cfg: DictConfig, folder: Path, recorder: Recorder, *, marks: dict[str, str]) -> Record:
    """Train the cell, from its snapshot where ``folder`` has one; what its record says of the best epoch's weights.

    ``marks`` are those of its snapshots. Raises ``stopping.Stopped`` where it is asked to stop before it has trained.
    """
    started = time.perf_counter()
    torch.set_num_threads(cfg.trainer.num_threads)
    _reset_peak_memory()
    data = load_windows(cfg)
    with ranks.together(cfg, folder):
        model = fit(cfg, folder, recorder, data, marks=marks)
    recorder.write_history()

    best = snapshots.read(folder / snapshots.BEST_FILE)
    model.load_state_dict(best["state_dict"])
    trainer = make_trainer(cfg, folder)
    trainer.validate(model, datamodule=data, verbose=False)
    validation = _score(model, data.validation)
    trainer.test(model, datamodule=data, verbose=False)
    test = _score(model, data.test)
    model.eval()
    num_windows = audit.windows_to_audit(cfg.data.windows_per_sample)
    before = audit.leak(build(cfg), num_windows=num_windows)  # of the same weights as then, and out of training's way
    after = audit.leak(model, num_windows=num_windows)
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    read = {name: probes.readings(model, splits[name]) for name in ("validation", "test")}
    others = {"validation": read["test"], "test": read["validation"]}
    trained = len(recorder.history) * characters_per_epoch(cfg, data)
    with_memory = memory_mode(cfg) != "none"
    return Record(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        history=recorder.history,
        best_epoch=best["epoch"] + 1,
        validation=validation,
        test=test,
        gradient_coverage=audit.gradient_coverage(model),
        leak={"before_training": before, "best": after},
        causal=audit.is_causal(before, after),
        bits_by_position={name: probes.bits_by_position(model, text) for name, text in read.items()},
        memory_use={n: probes.memory_use(model, text, others[n]) for n, text in read.items()} if with_memory else {},
        state_size=probes.state_size(model) if with_memory else 0,
        flops_per_character=probes.flops_per_character(model),
        unknown_characters={name: split.unknown_characters for name, split in splits.items()},
        floors=_floors(corpora.load(cfg.data), cfg.data.window),
        seconds=recorder.seconds_before + time.perf_counter() - started,
        train_seconds=recorder.train_seconds,
        characters_per_second=trained / recorder.train_seconds,
        peak_memory=_peak_memory(model.device),
    )


def _score(model: CharLM, samples: Samples) -> Score:
    return score(float(model.nll.compute()), characters=samples.num_characters, words=samples.num_words)


@functools.cache
def _floors(corpus: corpora.Corpus, window: int) -> dict[str, Floors]:
    """What counting reaches on each scored split: once a process, since most cells of a sweep share their text."""
    ngrams = sum(map(len, corpus.splits.values())) <= MOST_COUNTED
    return {
        name: floors(corpus.train.indices, text.indices, window=window, ngrams=ngrams)
        for name, text in (("validation", corpus.validation), ("test", corpus.test))
    }


def _reset_peak_memory() -> None:
    """Begin a new peak, so that a cell is not charged for those that ran before it in this process."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        log.info("peak memory cannot be reset here: it is that of the process since its start")


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, where /proc is not
