"""Time and memory that a character costs in a long text: a carried memory beside attention to all that was read."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from hrm_bench.bench.processes import python
from hrm_bench.bench.reading import AT_ONCE, read, reader, words
from hrm_bench.bench.settings import Settings
from hrm_bench.bench.table import Row, compare, figure
from hrm_bench.bench.timing import Place, at, interleave, timed

MODEL = "infini_hrm"
WINDOWS = (1, 16, 256, 4096)
SMALL_WINDOWS = (1, 16)
ROUNDS = 2  # the longest text takes half a minute
FLAT_FROM = 16  # windows, that the longer texts are compared with
LARGEST_AT_ONCE = 256  # windows of which the memory of one pass is measured
MOST_SECONDS = 20.0  # that one reading may take
TIMED_SECONDS = 0.05  # that a way takes in its turn at least, where it is repeated


def measure(settings: Settings) -> Iterator[Row | str]:
    """Rows of microseconds a character and of megabytes."""
    for place in settings.places:
        with at(place):
            yield from _times(settings, place)
    yield from _peaks(settings)


def _times(settings: Settings, place: Place) -> Iterator[Row | str]:
    ways: dict[str, Callable[[], None]] = {}
    repeats: dict[str, int] = {}
    characters: dict[str, int] = {}
    sizes = _sizes(settings) if place.threads == 1 else _sizes(settings)[:-1]
    for model in (MODEL, AT_ONCE):
        last, expected = 0, 0.0  # windows of the text before, and seconds that this one should take
        for number in sizes:
            window = settings.cfg(model).data.window
            own, overrides = words(model, number, window)
            reads = reader(settings.cfg(model, *overrides), place.device)
            if model == AT_ONCE and last:
                expected *= (number / last) ** 2
                if expected > MOST_SECONDS:
                    yield f"{model}, {place}: not at {number:,} windows, which would take about {expected:,.0f} s"
                    break
            read(reads, 1)  # of its own windows: all of a text that is read at once
            expected = own * timed(partial(read, reads, 1))
            name = _name(model, number)
            ways[name], characters[name] = partial(read, reads, own), number * window
            repeats[name] = max(1, round(TIMED_SECONDS / expected))
            last = number
    times = interleave(ways, rounds=ROUNDS, warm_up=0, repeats=repeats)
    costs = {name: [1e6 * each / characters[name] for each in seconds] for name, seconds in times.items()}
    yield from _rows(settings, "time a character", place, costs, unit="µs")


def _peaks(settings: Settings) -> Iterator[Row | str]:
    """Where the times end, so does this."""
    place = settings.places[-1]._replace(threads=1)
    costs: dict[str, list[float]] = {}
    shares: dict[str, float] = {}  # KiB a character
    for model in (MODEL, AT_ONCE):
        for number in _sizes(settings):
            if model == AT_ONCE and number > LARGEST_AT_ONCE:
                break
            window = settings.cfg(model).data.window
            own, overrides = words(model, number, window)
            command = ["-m", "hrm_bench.bench.reading", place.device, str(own), *settings.words(model), *overrides]
            _, printed = python(*command, cwd=Path.cwd())
            costs[_name(model, number)] = [int(printed) / 2**20]
            shares[_name(model, number)] = int(printed) / 2**10 / (number * window)
    for row in _rows(settings, "memory of a text", place, costs, unit="MiB"):
        first, second = (figure(shares[name]) for name in row.of.split(" ÷ "))
        yield replace(row, note=f"measured once; {first} and {second} KiB a character")


def _rows(settings: Settings, what: str, on: object, costs: dict[str, list[float]], *, unit: str) -> Iterator[Row]:
    """The memory's longer texts against the first that is to be flat, and the other model against it at each length."""
    flat = _name(MODEL, FLAT_FROM)
    for number in _sizes(settings):
        if number != FLAT_FROM and _name(MODEL, number) in costs:
            yield compare(what, on, costs, _name(MODEL, number), flat, unit=unit)
    for number in _sizes(settings):
        if _name(AT_ONCE, number) in costs:
            yield compare(what, on, costs, _name(AT_ONCE, number), _name(MODEL, number), unit=unit)


def _name(model: str, number: int) -> str:
    return f"{model} {number:,} {'window' if number == 1 else 'windows'}"


def _sizes(settings: Settings) -> tuple[int, ...]:
    return SMALL_WINDOWS if settings.quick else WINDOWS
