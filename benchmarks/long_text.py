"""Time and memory per character of a long text: a carried memory, against attention to everything that was read.

``python -m benchmarks.long_text DEVICE WINDOWS key=value ...`` reads one text in a process of its own and prints how
many bytes that took besides the model. The text is random and drawn as it is read; the cost does not depend on it.
"""

import sys
from collections.abc import Callable, Iterator
from functools import partial

import torch

from benchmarks.commands import ROOT, python
from benchmarks.settings import Settings
from benchmarks.table import Row, compare
from benchmarks.timing import Device, interleave, use
from hrm_bench.charlm import CharLM
from hrm_bench.config.compose import compose
from hrm_bench.training import peak_memory
from hrm_bench.training.build import build

QUESTION = "what does a character of a long text cost with a carried memory, and with attention to all of the text?"
MEMORY, AT_ONCE = "infini_hrm", "transformer"  # the second reads the whole text as one window
NUM_WINDOWS = (16, 256, 4096)
SMALL_NUM_WINDOWS = (1, 16)
LARGEST_AT_ONCE = 256  # windows; attention to more takes minutes
ROUNDS = 2  # the longest text takes half a minute


def measure(settings: Settings) -> Iterator[Row | str]:
    """Yield rows of microseconds and of KiB per character."""
    for device in settings.devices:
        if device.threads == 1:
            with use(device):
                yield from _rows(settings, "time per character", device, _times(settings, device), unit="µs")
            yield from _rows(settings, "memory per character", device, _peaks(settings, device), unit="KiB")


def read(model: CharLM, num_windows: int) -> None:
    """Read a random text of some windows in one lane, each window after the memory of those before it."""
    memory = model.initial_memory(1)
    with torch.no_grad():
        for _ in range(num_windows):
            text = torch.randint(model.head.out_features, (1, model.window), device=model.device)
            _, memory = model(text, memory)


def reading(model: str, num_windows: int, window: int) -> tuple[int, list[str]]:
    """Return how many windows a model takes a text for, and the words of its config."""
    if model == AT_ONCE:
        return 1, [f"data.window={num_windows * window}"]
    return num_windows, ["memory=carry"]


def _texts(settings: Settings) -> Iterator[tuple[str, int, str, int, list[str]]]:
    """Yield each reading: its name, its characters, the model, how many windows it takes and its config's words."""
    for model in (MEMORY, AT_ONCE):
        window = settings.config(model).data.window
        for size in _sizes(settings):
            if model == MEMORY or size <= LARGEST_AT_ONCE:
                yield _name(model, size), size * window, model, *reading(model, size, window)


def _times(settings: Settings, device: Device) -> dict[str, list[float]]:
    works: dict[str, Callable[[], None]] = {}
    characters = {}
    for name, length, model, num_windows, words in _texts(settings):
        reader = build(settings.config(model, *words)).to(device.type).eval()
        read(reader, 1)  # a first call is slower
        works[name], characters[name] = partial(read, reader, num_windows), length
    timings = interleave(works, rounds=ROUNDS, warm_up=0)
    return {name: [1e6 * second / characters[name] for second in seconds] for name, seconds in timings.items()}


def _peaks(settings: Settings, device: Device) -> dict[str, list[float]]:
    costs = {}
    for name, length, model, num_windows, words in _texts(settings):
        arguments = [device.type, str(num_windows), *settings.words(model), *words]
        _, printed = python("-m", "benchmarks.long_text", *arguments, cwd=ROOT)
        costs[name] = [int(printed) / 2**10 / length]
    return costs


def _rows(settings: Settings, what: str, device: Device, costs: dict[str, list[float]], *, unit: str) -> Iterator[Row]:
    """Compare each text with the shortest one, and at each length the transformer with the memory."""
    shortest = _name(MEMORY, _sizes(settings)[0])
    for size in _sizes(settings):
        memory, at_once = _name(MEMORY, size), _name(AT_ONCE, size)
        if memory != shortest:
            yield compare(what, device, costs, memory, shortest, unit=unit)
        if at_once in costs:
            yield compare(what, device, costs, at_once, memory, unit=unit)


def _name(model: str, size: int) -> str:
    return f"{model} {size:,} {'window' if size == 1 else 'windows'}"


def _sizes(settings: Settings) -> tuple[int, ...]:
    return SMALL_NUM_WINDOWS if settings.quick else NUM_WINDOWS


def main(words: list[str]) -> None:
    """Read one text and print the bytes."""
    device, num_windows, *overrides = words
    torch.set_num_threads(1)
    model = build(compose(*overrides)).to(device).eval()
    accelerator = "gpu" if device == "cuda" else device
    peak_memory.reset(accelerator)
    before = peak_memory.read(accelerator)
    read(model, int(num_windows))
    print(peak_memory.read(accelerator) - before)


if __name__ == "__main__":
    main(sys.argv[1:])
