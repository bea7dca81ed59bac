"""Adaptation while reading: what a trained model gains from the text that it has read so far.

Every predictor is causal: the distribution that it gives a character follows from earlier characters alone.

- *cache*: the characters that followed similar states in earlier windows (``predictors``), of the last 1, 4 and 16
  windows, or of all. The control is the cache of another text.
- *dynamic*: dynamic evaluation, a step of training on each window after it was scored (``reading``).
- *past counts*: a Kneser-Ney model of order 7 that has counted the text so far and nothing else.
- *adaptive counts*: the same, but it has counted the training text before.
- *output memory*: a memory of fixed size on the output of the frozen model (``output_memory``), which learned on the
  training text, that the model knows by heart, or on text that it has not seen.

A mixture is Σ_k w_k p_k with fixed weights. Weights, the similarity of states, and the step of dynamic evaluation are
those with the least loss on the texts that choose (``articles.that_choose``): per cell, and never on a scored text.

Shapes: K predictors of a mixture, T characters of a text.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hrm_bench.charlm import CharLM
from hrm_bench.data.kneser_ney import Counts
from hrm_bench.data.text import packed
from hrm_bench.data.windows import Samples
from hrm_bench.evidence import output_memory
from hrm_bench.evidence.predictors import Kernel, cached, counted, kernels
from hrm_bench.evidence.reading import Reading, Rule, read
from hrm_bench.records.schema import Adaptation

REACHES = (None, 1, 4, 16)  # windows; None: all
ROUNDS = 300  # of expectation-maximisation
RULES = (
    *(Rule("sgd", rate) for rate in (0.1, 0.2, 0.4)),
    *(Rule("adam", rate) for rate in (0.0005, 0.001, 0.002, 0.004)),
)
OWN, OTHER, MOVING = "cache", "another text's cache", "cache of dynamic"
REACHING = {reach: OWN if reach is None else f"cache of {reach} window{'s' * (reach > 1)}" for reach in REACHES}
PAST, ADAPTIVE = "past counts", "adaptive counts"
OWN_TEXT, UNSEEN = "own text", "unseen text"
MEMORIES = {text: f"output memory from {text}" for text in (OWN_TEXT, UNSEEN)}  # by what it learned on
MIXTURES = (  # each after the parts that it needs
    ((), ("model",)),
    *((("cache",), ("model", name)) for name in (*REACHING.values(), OTHER)),
    (("dynamic",), ("dynamic",)),
    (("dynamic", "cache"), ("dynamic", MOVING)),
    (("counts",), (PAST,)),
    (("counts",), (ADAPTIVE,)),
    (("counts",), ("model", PAST)),
    (("counts",), ("model", ADAPTIVE)),
    (("counts", "cache"), ("model", OWN, PAST)),
    (("counts", "cache"), ("model", OWN, ADAPTIVE)),
    (("counts", "dynamic"), ("dynamic", PAST)),
    (("counts", "dynamic"), ("dynamic", ADAPTIVE)),
    (("counts", "cache", "dynamic"), ("dynamic", MOVING, ADAPTIVE)),
    *((("memory",), (name,)) for name in MEMORIES.values()),
)
CHOOSING = "choosing"
NONE: Mapping[str, Samples] = {}

Given = dict[str, Tensor]  # by predictor: the probabilities of the characters of some texts, (T,) for all of them


class Group(NamedTuple):
    """Texts that are each read from the beginning, and the other text of each for the control."""

    texts: Sequence[Samples]
    others: Sequence[Samples]
    counts: Given  # what counting gives, the same for every cell


class Readings(NamedTuple):
    """A group as a model has read it."""

    texts: Sequence[Reading]
    others: Sequence[Reading] = ()  # none: there is no control


class Mixture(NamedTuple):
    """Predictors with their weights, and what these give on the scored texts."""

    weights: dict[str, float]
    settings: dict[str, str]  # by predictor: what was chosen besides its weight
    probabilities: dict[str, Tensor]  # by scored text: of its characters, (T,)
    perplexity: dict[str, float]  # by scored text, per character


def groups(choosing: Sequence[Samples], scored: Mapping[str, Samples], counts: Counts | None) -> dict[str, Group]:
    """Return the texts that choose, at least two, and the two that are scored, each of these by itself.

    ``counts`` has counted the training text; None: nothing is counted.
    """
    texts = {CHOOSING: [*choosing]} | {name: [samples] for name, samples in scored.items()}
    others = {CHOOSING: [*choosing[1:], choosing[0]]}
    others |= {name: [scored[other] for other in scored if other != name] for name in scored}
    return {name: Group(texts[name], others[name], _counts(texts[name], counts)) for name in texts}


def trained_counts(train: Tensor, vocabulary_size: int) -> Counts:
    """Return the counts of a training text, (T,)."""
    counts, text = Counts(vocabulary_size), packed(train)
    for position in range(len(text)):
        counts.add(text, position)
    return counts


def adapt(
    model: CharLM,
    groups: Mapping[str, Group],
    parts: Collection[str],
    *,
    learning: Mapping[str, Samples] = NONE,
    seed: int = 0,
    precision: str = "32-true",
) -> list[Mixture]:
    """Choose every mixture that the parts allow, and score it.

    Args:
        model: trained; it is left as it is.
        groups: as ``groups`` returns them.
        parts: some of cache, dynamic, counts and memory.
        learning: the texts that output memories learn on, by OWN_TEXT and UNSEEN; of the part memory.
        seed: of output memories.
        precision: in which the model was scored.
    """

    def read_all(texts: Sequence[Samples], rule: Rule | None = None) -> list[Reading]:
        return [read(model, text, rule, precision=precision) for text in texts]

    given: dict[str, Given] = {name: dict(group.counts) for name, group in groups.items()}
    settings = dict[str, str]()

    def add(name: str, by_group: Mapping[str, Tensor], setting: object = None) -> None:
        for group, probabilities in by_group.items():
            given[group][name] = probabilities
        settings.update({} if setting is None else {name: str(setting)})

    controlled = "cache" in parts
    still = {
        name: Readings(read_all(group.texts), read_all(group.others) if controlled else ())
        for name, group in groups.items()
    }
    add("model", {name: _probabilities(readings) for name, readings in still.items()})
    if "cache" in parts:
        for name, (kernel, by_group) in _chosen_caches(still).items():
            add(name, by_group, kernel)
    if "dynamic" in parts:
        tried = {rule: Readings(read_all(groups[CHOOSING].texts, rule)) for rule in RULES}
        rule = min(RULES, key=lambda rule: _loss(_probabilities(tried[rule])))
        moving = {name: Readings(read_all(group.texts, rule)) for name, group in groups.items() if name != CHOOSING}
        moving[CHOOSING] = tried[rule]
        add("dynamic", {name: _probabilities(readings) for name, readings in moving.items()}, rule)
        if "cache" in parts:
            kernel, by_group = _chosen_caches(moving)[OWN]
            add(MOVING, by_group, kernel)
    for name, samples in learning.items() if "memory" in parts else ():
        memory = output_memory.learn(read_all([samples])[0], model.vocabulary_size, seed=seed)
        by_group = {
            group: torch.cat([output_memory.remembered(memory, text) for text in some.texts])
            for group, some in still.items()
        }
        add(MEMORIES[name], by_group, f"K={output_memory.FEATURES}, {samples.num_decoded:,} characters")
    mixtures = [names for needed, names in MIXTURES if {*needed} <= {*parts}]
    return [_mixture(names, given, settings, groups) for names in mixtures]


def by_mixture(variant: str, mixtures: Mapping[int, Sequence[Mixture]]) -> list[Adaptation]:
    """Return what a file says of a variant: one entry per mixture, of what ``adapt`` has returned for each seed."""
    return [
        Adaptation(
            variant=variant,
            predictors=[*some[0].weights],
            seeds=[*mixtures],
            weights=[[*mixture.weights.values()] for mixture in some],
            settings=[mixture.settings for mixture in some],
            perplexity={split: [mixture.perplexity[split] for mixture in some] for split in some[0].perplexity},
        )
        for some in zip(*mixtures.values(), strict=True)
    ]


def joined(earlier: Sequence[Adaptation], answers: Sequence[Adaptation]) -> list[Adaptation]:
    """Return answers, and those of earlier commands about other mixtures of the same seeds or about other variants."""
    seeds = {answer["variant"]: answer["seeds"] for answer in answers}
    new = [(answer["variant"], answer["predictors"]) for answer in answers]
    kept = [
        answer
        for answer in earlier
        if (answer["variant"], answer["predictors"]) not in new
        and seeds.get(answer["variant"], answer["seeds"]) == answer["seeds"]
    ]
    return sorted([*kept, *answers], key=lambda answer: answer["variant"])


def weights(given: Tensor) -> Tensor:
    """Return the weights of the mixture that gives the characters the largest probability: (K,) of (K, T)."""
    chosen = given.new_full((len(given),), 1 / len(given))
    for _ in range(ROUNDS if len(given) > 1 else 0):
        shares = chosen[:, None] * given
        chosen = (shares / shares.sum(dim=0)).mean(dim=1)
    return chosen


def _mixture(
    names: Sequence[str], given: Mapping[str, Given], settings: Mapping[str, str], groups: Mapping[str, Group]
) -> Mixture:
    by_group = {group: torch.stack([some[name] for name in names]) for group, some in given.items()}
    chosen = weights(by_group.pop(CHOOSING))
    mixed = {group: chosen @ given for group, given in by_group.items()}
    powers = {group: groups[group].texts[0].symbols_per_character for group in mixed}
    return Mixture(
        weights=dict(zip(names, chosen.tolist(), strict=True)),
        settings={name: settings[name] for name in names if name in settings},
        probabilities=mixed,
        perplexity={group: math.exp(_loss(mixed[group]) * power) for group, power in powers.items()},
    )


def _chosen_caches(readings: Mapping[str, Readings]) -> dict[str, tuple[Kernel, dict[str, Tensor]]]:
    """Return, by cache, the kernel that serves the texts that choose best, and what the cache gives by group."""
    best = dict[str, tuple[float, Kernel]]()
    choosing = readings[CHOOSING]
    by_group = {name: dict[Kernel, Given]() for name in readings}
    for kernel in kernels(choosing.texts):
        by_group[CHOOSING][kernel] = _caches(choosing, kernel)
        for name, probabilities in by_group[CHOOSING][kernel].items():
            both = torch.stack([_probabilities(choosing), probabilities])
            best[name] = min(best.get(name, (math.inf, kernel)), (_loss(weights(both) @ both), kernel))
    for kernel in {kernel for _, kernel in best.values()}:
        for group, some in readings.items():
            if group != CHOOSING:
                by_group[group][kernel] = _caches(some, kernel)
    return {
        name: (kernel, {group: given[kernel][name] for group, given in by_group.items()})
        for name, (_, kernel) in best.items()
    }


def _caches(readings: Readings, kernel: Kernel) -> Given:
    """Return what the caches of each reach give, and that of another text if there is one."""
    own = torch.cat([cached(text, text, kernel, REACHES) for text in readings.texts], dim=1)
    given = dict(zip(REACHING.values(), own, strict=True))
    if readings.others:
        pairs = zip(readings.texts, readings.others, strict=True)
        given[OTHER] = torch.cat([cached(text, other, kernel, [None])[0] for text, other in pairs])
    return given


def _counts(texts: Sequence[Samples], trained: Counts | None) -> Given:
    if trained is None:
        return {}
    by_name = {PAST: Counts(trained.vocabulary_size), ADAPTIVE: trained}
    return {name: torch.cat([counted(counts, text) for text in texts]) for name, counts in by_name.items()}


def _probabilities(readings: Readings) -> Tensor:
    return torch.cat([text.probabilities for text in readings.texts])


def _loss(probabilities: Tensor) -> float:
    """Return the mean nats per character."""
    return -float(probabilities.log().mean())
