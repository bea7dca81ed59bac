"""``python -m benchmarks.coverage [draws=N]``: how often intervals hold the truth, and verdicts are wrong.

Runs are drawn from worlds whose truth is known, and given to the functions that the report uses. It takes a quarter of
an hour on one core.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from scipy import special

from hrm_bench import cli, crossed, statistics
from hrm_bench.intervals import Quantity, at_confidence, level, paired_difference, percent_difference, rate, share
from hrm_bench.sweeps import decide

Array = numpy.ndarray
SEEDS = (4, 5, 8, 12, 24)
SPREAD = 0.03  # sd of a run, in units of its mean; in the archived records half of the variants are below 0.01
PLATEAU, STUCK = 23.2, 1 / 8  # perplexity on the plateau, and the probability of ending there
MEANS = {"hrm": 11.0, "other": 12.0, "lct": 30.0, "task": 20.0}
RESAMPLES = 1_999
ARTICLES = 16
MOST = 64  # seeds of a claim that is decided in rounds
CLAIM, CLOSE = statistics.published_range("difference", -4.7), 0.01  # a claim, and the sd of the runs that judge it
KEYS = {
    "draws": cli.Key("simulated experiments per figure", int, default=40_000, at_least=100),
    "seed": cli.Key("of the random draws", int, default=0),
}


@dataclass(frozen=True)
class World:
    """A distribution of runs around a mean of zero with a standard deviation of one."""

    noise: Callable[[numpy.random.Generator, int], Array]
    stuck: float = 0.0  # the probability that a run ends on the plateau instead

    def runs(self, draw: numpy.random.Generator, mean: float, seeds: int, spread: float = SPREAD) -> list[float]:
        """Return the perplexities of the runs that left the plateau."""
        values = mean * (1 + spread * self.noise(draw, seeds))
        return [float(value) for value in values[draw.random(seeds) >= self.stuck]]


def _normal(draw: numpy.random.Generator, number: int) -> Array:
    return draw.normal(size=number)


def _skewed(draw: numpy.random.Generator, number: int) -> Array:
    return (draw.gamma(4.0, size=number) - 4) / 2  # its skewness is 1


WORLDS = {"normal": World(_normal), "skewed": World(_skewed), "one in eight on the plateau": World(_normal, STUCK)}


def _holds(quantity: Quantity, truth: float) -> bool | None:
    """Whether the interval holds the truth; None without an interval."""
    if quantity.low is None or quantity.high is None:
        return None
    return quantity.low <= truth <= quantity.high


def level_covers(world: World, draw: numpy.random.Generator, seeds: int) -> bool | None:
    """The mean of one variant."""
    runs = world.runs(draw, MEANS["hrm"], seeds)
    return _holds(level(runs), MEANS["hrm"]) if runs else None


def difference_covers(world: World, draw: numpy.random.Generator, seeds: int) -> bool | None:
    """The difference of two variants in percent; the runs of one spread three times as far."""
    runs, others = (world.runs(draw, MEANS[name], seeds, s) for name, s in (("other", SPREAD), ("hrm", SPREAD / 3)))
    truth = 100 * (MEANS["other"] / MEANS["hrm"] - 1)
    return _holds(percent_difference(runs, others), truth) if runs and others else None


def paired_covers(world: World, draw: numpy.random.Generator, seeds: int) -> bool | None:
    """The difference of two figures of one run in percent."""
    runs = world.runs(draw, MEANS["hrm"], seeds)
    changed = [
        1.01 * run * (1 + 0.01 * float(noise)) for run, noise in zip(runs, world.noise(draw, len(runs)), strict=True)
    ]
    found = paired_difference(changed, runs)
    if found is None or found.percent_low is None or found.percent_high is None:
        return None
    return found.percent_low <= 1.0 <= found.percent_high


def share_covers(world: World, draw: numpy.random.Generator, seeds: int) -> bool | None:
    """How much of a gap a part explains."""
    lct, task, hrm = (world.runs(draw, MEANS[name], seeds) for name in ("lct", "task", "hrm"))
    truth = 100 * (MEANS["lct"] - MEANS["task"]) / (MEANS["lct"] - MEANS["hrm"])
    return _holds(share(lct, task, lct, hrm), truth) if lct and task and hrm else None


def single_covers(world: World, draw: numpy.random.Generator, seeds: int) -> bool | None:
    """One more run of a variant."""
    runs, published = world.runs(draw, MEANS["hrm"], seeds), world.noise(draw, 1)[0]
    found = level(runs) if runs else None
    if found is None or found.single_low is None or found.single_high is None:
        return None
    return bool(found.single_low <= MEANS["hrm"] * (1 + SPREAD * published) <= found.single_high)


def single_difference_covers(world: World, draw: numpy.random.Generator, seeds: int) -> bool | None:
    """The difference between one more run of each of two variants, in percent."""
    runs, others = (world.runs(draw, MEANS[name], seeds) for name in ("other", "hrm"))
    one, other = (MEANS[name] * (1 + SPREAD * world.noise(draw, 1)[0]) for name in ("other", "hrm"))
    found = percent_difference(runs, others) if runs and others else None
    if found is None or found.single_low is None or found.single_high is None:
        return None
    return bool(found.single_low <= 100 * (one / other - 1) <= found.single_high)


def crossed_covers(world: World, draw: numpy.random.Generator, seeds: int) -> bool | None:
    """The difference of two variants in percent, for other seeds on other articles."""
    texts = 0.1 * world.noise(draw, ARTICLES)  # nats that an article adds for both
    variants = []
    for name, spread in (("other", SPREAD), ("hrm", SPREAD / 3)):
        left = int((draw.random(seeds) >= world.stuck).sum())
        own, runs, rest = world.noise(draw, ARTICLES), world.noise(draw, left), world.noise(draw, left * ARTICLES)
        of_run = (spread * runs)[:, None] + 0.005 * rest.reshape(left, ARTICLES)
        variants.append((numpy.log(MEANS[name]) + texts + 0.02 * own + of_run).tolist())
    if not all(variants):
        return None
    found = crossed.percent_difference(*variants).over_both
    truth = 100 * (MEANS["other"] / MEANS["hrm"] - 1)
    return None if found is None else found[0] <= truth <= found[1]


def rate_covers(world: World, draw: numpy.random.Generator, seeds: int) -> bool | None:
    """The rate of runs that leave the plateau."""
    left = int(draw.binomial(seeds, 1 - world.stuck))
    found = rate(left, seeds)
    return found.low <= 1 - world.stuck <= found.high


INTERVALS = {
    "level": level_covers,
    "difference": difference_covers,
    "share": share_covers,
    "paired difference": paired_covers,
    "single run": single_covers,
    "difference of single runs": single_difference_covers,
    "rate of leaving the plateau": rate_covers,
    "difference, over seeds and 16 articles": crossed_covers,
}


def bca_covers(world: World, draw: numpy.random.Generator, seeds: int, draws: int) -> float:
    """Return the coverage of the BCa bootstrap interval of a mean over all runs, which the report used until now."""
    runs = MEANS["hrm"] * (1 + SPREAD * world.noise(draw, draws * seeds).reshape(draws, seeds))
    runs[draw.random(runs.shape) < world.stuck] = PLATEAU
    truth = MEANS["hrm"] * (1 - world.stuck) + PLATEAU * world.stuck
    weights = draw.multinomial(seeds, [1 / seeds] * seeds, size=RESAMPLES) / seeds
    means, resampled = runs.mean(axis=1), numpy.sort(runs @ weights.T, axis=1)
    below = (resampled < means[:, None]).mean(axis=1) + (resampled == means[:, None]).mean(axis=1) / 2
    bias = special.ndtri(numpy.clip(below, 1e-4, 1 - 1e-4))
    left_out = means[:, None] - runs  # in proportion to the jackknife's departures
    cubes, squares = (left_out**3).sum(axis=1), (left_out**2).sum(axis=1)
    acceleration = -cubes / (6 * numpy.maximum(squares, 1e-12) ** 1.5)
    ends = []
    for tail in (0.025, 0.975):
        point = bias + special.ndtri(tail)
        at = special.ndtr(bias + point / (1 - acceleration * point))
        ends.append(resampled[numpy.arange(draws), (at * (RESAMPLES - 1)).astype(int)])
    return 100 * float(((ends[0] <= truth) & (truth <= ends[1])).mean())


def _verdict(world: World, draw: numpy.random.Generator, seeds: int, percent: float) -> statistics.Verdict:
    """Return the verdict on a published improvement by 4.7 % if the true difference is this."""
    runs = world.runs(draw, MEANS["hrm"] * (1 + percent / 100), seeds, CLOSE)
    others = world.runs(draw, MEANS["hrm"], seeds, CLOSE)
    if not runs or not others:
        return "undecided"
    on_rates = (statistics.verdict_on_rate(rate(len(some), seeds)) for some in (runs, others))
    return statistics.combined(statistics.verdict(percent_difference(runs, others), CLAIM), on_rates)


def reproduced_at_its_bound(world: World, draw: numpy.random.Generator, seeds: int) -> bool:
    """A difference as large as the smallest that is accepted."""
    return _verdict(world, draw, seeds, CLAIM.high or 0) == "reproduced"


def contradicted_at_its_bound(world: World, draw: numpy.random.Generator, seeds: int) -> bool:
    """The same, on the other side."""
    return _verdict(world, draw, seeds, CLAIM.high or 0) == "contradicted"


def equivalent_at_the_margin(world: World, draw: numpy.random.Generator, seeds: int) -> bool:
    """A difference as small as the margin."""
    return _verdict(world, draw, seeds, statistics.MARGIN) == "equivalent"


def different_without_difference(world: World, draw: numpy.random.Generator, seeds: int) -> bool:
    """One variant under two names."""
    runs, others = (world.runs(draw, MEANS["hrm"], seeds) for _ in range(2))
    return _holds(percent_difference(runs, others), 0.0) is False if runs and others else False


def rate_decided_at_a_half(world: World, draw: numpy.random.Generator, seeds: int) -> bool:
    """Half of the runs leave the plateau, so neither verdict on their rate is right."""
    return statistics.verdict_on_rate(rate(int(draw.binomial(seeds, 0.5)), seeds)) != "undecided"


def true_claim_reproduced(world: World, draw: numpy.random.Generator, seeds: int) -> bool:
    """The published difference is exactly true."""
    return _verdict(world, draw, seeds, -4.7) == "reproduced"


WRONG = {
    "reproduced, at the bound": reproduced_at_its_bound,
    "contradicted, at the bound": contradicted_at_its_bound,
    "equivalent, at the margin": equivalent_at_the_margin,
    "called different, but alike": different_without_difference,
    "rate decided, at one half": rate_decided_at_a_half,
    "*right:* reproduced, and exactly true": true_claim_reproduced,
}


AT_ROUNDS = {  # by the true difference in percent: verdicts that are given, and whether they are wrong
    "reproduced, at the bound": (CLAIM.high or 0, ("reproduced",)),
    "contradicted, at the bound": (CLAIM.high or 0, ("contradicted", "equivalent")),
    "equivalent, at the margin": (statistics.MARGIN, ("equivalent",)),
    "*right:* reproduced, and exactly true": (-4.7, ("reproduced",)),
    "*right:* contradicted, or equivalent, and none": (0.0, ("contradicted", "equivalent")),
}


def decided(world: World, draw: numpy.random.Generator, percent: float) -> tuple[statistics.Verdict, int]:
    """Return the verdict on a claim that is decided in rounds, and the seeds that it took."""
    means = (MEANS["hrm"] * (1 + percent / 100), MEANS["hrm"])
    runs = [mean * (1 + CLOSE * world.noise(draw, MOST)) for mean in means]
    left = [draw.random(MOST) >= world.stuck for _ in runs]
    for seeds in decide.looks(MOST):
        some = [values[:seeds][on[:seeds]].tolist() for values, on in zip(runs, left, strict=True)]
        if all(some):
            with at_confidence(decide.confidence(MOST)):
                on_rates = (statistics.verdict_on_rate(rate(len(one), seeds)) for one in some)
                verdict = statistics.combined(statistics.verdict(percent_difference(*some), CLAIM), on_rates)
            if verdict != "undecided":
                break
    return verdict, seeds


def rounds(draws: int, seed: int) -> Iterator[tuple[str, str, list[float]]]:
    """Yield rule, world, how often the verdict is given at any look, in percent, and the mean number of seeds."""
    for place, (name, (percent, given)) in enumerate(AT_ROUNDS.items()):
        for kind, world in WORLDS.items():
            draw = numpy.random.default_rng([seed, 200 + place, len(kind)])
            ended = [decided(world, draw, percent) for _ in range(min(draws, 10_000))]
            often = 100 * float(numpy.mean([verdict in given for verdict, _ in ended]))
            yield name, kind, [often, float(numpy.mean([seeds for _, seeds in ended]))]


def verdicts(draws: int, seed: int) -> Iterator[tuple[str, str, list[float]]]:
    """Yield rule, world and how often the verdict is given for each number of seeds, in percent."""
    for place, (name, is_given) in enumerate(WRONG.items()):
        for kind, world in WORLDS.items():
            if is_given is rate_decided_at_a_half and not world.stuck:
                continue
            draw = numpy.random.default_rng([seed, 100 + place, len(kind)])
            given = ([is_given(world, draw, seeds) for _ in range(draws)] for seeds in SEEDS)
            yield name, kind, [100 * float(numpy.mean(some)) for some in given]


def coverage(draws: int, seed: int) -> Iterator[tuple[str, str, list[float]]]:
    """Yield interval, world and the coverage for each number of seeds, in percent."""
    for place, (name, covers) in enumerate(INTERVALS.items()):
        for kind, world in WORLDS.items():
            if covers is rate_covers and not world.stuck:
                continue  # every run leaves
            draw = numpy.random.default_rng([seed, place, len(kind)])
            held = ([covers(world, draw, seeds) for _ in range(draws)] for seeds in SEEDS)
            yield name, kind, [100 * float(numpy.mean([h for h in some if h is not None])) for some in held]
    for kind, world in WORLDS.items():
        draw = numpy.random.default_rng([seed, 7, len(kind)])
        some = min(draws, 4_000)
        yield "level, by BCa over all runs", kind, [bca_covers(world, draw, seeds, some) for seeds in SEEDS]


def markdown(what: str, headings: Sequence[str], rows: Iterable[tuple[str, str, list[float]]]) -> Iterator[str]:
    """Yield the lines of a table."""
    yield f"| {what} | runs | " + " | ".join(headings) + " |"
    yield "| --- | --- |" + " ---: |" * len(headings)
    for name, kind, figures in rows:
        yield f"| {name} | {kind} | " + " | ".join(f"{figure:.1f}" for figure in figures) + " |"


def main(words: list[str]) -> int:
    """Print the table as it is simulated."""
    if {"-h", "--help"} & set(words):
        print("\n".join([f"{__doc__}", *(f"  {word}  {meaning}" for word, meaning in cli.arguments(KEYS).items())]))
        return 0
    values = cli.parse(words, KEYS)
    by_seeds = [f"{seeds} seeds" for seeds in SEEDS]
    parts: Sequence[tuple[str, Sequence[str], Any]] = (
        ("interval", by_seeds, coverage),
        ("verdict", by_seeds, verdicts),
        (f"verdict in rounds of up to {MOST} seeds", ("given", "mean seeds"), rounds),
    )
    for what, headings, simulate in parts:
        for line in markdown(what, headings, simulate(values["draws"], values["seed"])):
            print(line, flush=True)
        print()
    return 0


if __name__ == "__main__":
    cli.run(main)
