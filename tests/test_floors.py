"""The n-gram baselines against a slow recount, their window, their memory, and the command that shows them."""

import math
import random
import re
from collections import Counter

import pytest
import torch
from commands import hrm_bench as command

import hrm_bench
from hrm_bench.data.kneser_ney import FALLBACK, ORDERS, Counts, discounts
from hrm_bench.data.text import PRINTABLE_ASCII
from hrm_bench.evidence.floors import WAYS, best, floors, unigram_nll
from hrm_bench.training.build import load_windows

EXACT = {"rel": 1e-9, "abs": 0}


# A slow reference: everything is counted again for each predicted character


def ngrams(texts, length):
    return [tuple(text[i : i + length]) for text in texts for i in range(len(text) - length + 1)]


def level(texts, length, raw):
    """How often each n-gram occurs, or how many distinct characters precede it."""
    if raw:
        return Counter(ngrams(texts, length))
    return Counter(longer[1:] for longer in set(ngrams(texts, length + 1)))


def closed_form(counts):
    """Chen and Goodman's three discounts; None where one of them is undefined or not inside 0 < Dj < j."""
    n = [list(counts.values()).count(times) for times in range(5)]
    try:
        y = n[1] / (n[1] + 2 * n[2])
        estimated = [j - (j + 1) * y * n[j + 1] / n[j] for j in (1, 2, 3)]
    except ZeroDivisionError:
        return None
    return estimated if all(0 < discount < j for j, discount in enumerate(estimated, 1)) else None


def probability(texts, context, character, raw=True):
    lower = probability(texts, context[1:], character, raw=False) if context else 1 / 97
    counts = level(texts, len(context) + 1, raw)
    after = {ngram[-1]: count for ngram, count in counts.items() if ngram[:-1] == tuple(context)}
    if not after:
        return lower
    discount = closed_form(counts) or [0.5, 1.0, 1.5]
    taken = {symbol: discount[min(count, 3) - 1] for symbol, count in after.items()}
    kept = after.get(character, 0) - taken.get(character, 0)
    return kept / sum(after.values()) + sum(taken.values()) / sum(after.values()) * lower


def recounted(train, scored, window, order, way):
    """Perplexity, each predicted character by itself."""
    num_predicted = (len(scored) - 1) // window * window
    nll = 0.0
    for i in range(1, num_predicted + 1):
        visible = (i - 1) % window + 1 if way == "window" else i
        context = scored[i - min(order - 1, visible) : i]
        texts = [train, scored[:i]] if way == "adaptive" else [train]
        nll -= math.log(probability(texts, context, scored[i]))
    return math.exp(nll / num_predicted)


def random_texts(num_symbols, *lengths):
    """Indices in which some characters and pairs are commoner than others."""
    stream = random.Random(num_symbols)
    return [[min(stream.randrange(97), stream.randrange(num_symbols)) for _ in range(length)] for length in lengths]


def sample_texts(*lengths):
    data = load_windows(hrm_bench.compose("data=sample"))
    return [split.indices[:length].tolist() for split, length in zip((data.train, data.test), lengths, strict=True)]


TEXTS = {
    "four symbols": (random_texts, (4, 150, 45), 8),
    "all symbols": (random_texts, (97, 100, 45), 8),
    "the bundled text": (sample_texts, (900, 50), 16),
}


@pytest.mark.parametrize("order", [2, 3, 5, 7])
@pytest.mark.parametrize("name", TEXTS)
def test_kneser_ney_is_that_of_a_recount_for_each_character(name, order):
    make, sizes, window = TEXTS[name]
    train, scored = make(*sizes)
    baselines = floors(torch.tensor(train), torch.tensor(scored), window=window)[f"kneser_ney_{order}"]
    assert set(baselines) == set(WAYS) == {"full", "window", "adaptive"}
    for way, perplexity in baselines.items():
        assert perplexity == pytest.approx(recounted(train, scored, window, order, way), **EXACT)


def test_the_recounts_have_levels_with_estimated_discounts_and_levels_without():
    usable = Counter()
    for make, sizes, _ in TEXTS.values():
        train, _ = make(*sizes)
        usable.update(
            closed_form(level([train], length, raw)) is not None for length in ORDERS for raw in (True, False)
        )
    assert usable[True] >= 3
    assert usable[False] >= 3


def test_a_three_letter_text_worked_by_hand():
    a, b, other = PRINTABLE_ASCII.encode("abz")[0].tolist()
    counts = Counts()
    for position in range(3):
        counts.add(bytes([a, a, b]), position)
    # aa and ab once each; a and b each after one character; no usable discounts, so half of each count goes
    alone = {a: 0.5 / 2 + 0.5 / 97, b: 0.5 / 2 + 0.5 / 97, other: 0.5 / 97}
    for character, lower in alone.items():
        assert counts.probabilities(bytes([a, character]), 1) == pytest.approx(
            [(0.5 if lower > 0.1 else 0) / 2 + lower / 2]
        )
        assert counts.probabilities(bytes([b, character]), 1) == pytest.approx([lower])  # nothing was seen after b


def test_uniform_and_unigram_are_those_of_a_recount():
    train, scored = random_texts(20, 200, 70)
    baselines = floors(torch.tensor(train), torch.tensor(scored), window=8)
    assert baselines["uniform"] == {"full": 97.0}
    assert set(baselines["unigram"]) == {"full", "adaptive"}
    full, adaptive = 0.0, 0.0
    for i in range(1, 65):
        full -= math.log((train.count(scored[i]) + 1) / (200 + 97))
        adaptive -= math.log((train.count(scored[i]) + scored[:i].count(scored[i]) + 1) / (200 + i + 97))
    assert baselines["unigram"] == pytest.approx(
        {"full": math.exp(full / 64), "adaptive": math.exp(adaptive / 64)}, **EXACT
    )


def test_every_distribution_sums_to_one_and_leaves_no_character_out():
    train, scored = (bytes(text) for text in sample_texts(3_000, 40))
    counts = Counts()
    for position in range(len(train)):
        counts.add(train, position)
    unseen = bytes(PRINTABLE_ASCII.encode("\t~Qz@#")[0].tolist())
    half_seen = unseen[:3] + train[100:103]
    for context in (train[200:206], scored[:6], scored[20:26], half_seen, unseen, unseen[:1], train[-1:]):
        over_characters = [
            counts.probabilities(context + bytes([character]), len(context))
            for character in range(len(PRINTABLE_ASCII))
        ]
        for distribution in zip(*over_characters, strict=True):
            assert sum(distribution) == pytest.approx(1, abs=1e-12)
            assert min(distribution) > 0
        assert len(over_characters[0]) == len(context)


def test_discounts_are_estimated_where_they_can_be_and_half_of_each_count_elsewhere():
    assert discounts(116, 58, 45, 32) == pytest.approx((0.5, 2 - 1.5 * 45 / 58, 3 - 2 * 32 / 45))
    assert FALLBACK == (0.5, 1.0, 1.5)
    for zero in range(4):  # undefined, or the whole of a count
        assert discounts(*(0 if index == zero else 10 for index in range(4))) == FALLBACK
    assert 3 - 4 * (267 / (267 + 2 * 73)) * 43 / 33 < 0
    assert discounts(267, 73, 33, 43) == FALLBACK  # below zero
    stream = random.Random(0)
    for _ in range(500):
        baselines = discounts(*(stream.randrange(30) for _ in range(4)))
        assert all(0 < discount < count for count, discount in enumerate(baselines, 1))


def test_only_a_text_that_repeats_itself_is_better_predicted_by_counts_that_go_on():
    train, passage, other = (torch.tensor(text) for text in random_texts(90, 2_000, 128, 513))
    repeated = floors(train, torch.cat([passage.repeat(4), passage[:1]]), window=64)
    fresh = floors(train, other, window=64)
    for order in ORDERS[1:]:
        name = f"kneser_ney_{order}"
        assert repeated[name]["adaptive"] < 0.5 * repeated[name]["full"]
        assert fresh[name]["adaptive"] > 0.9 * fresh[name]["full"]


def second_window(train, scored, way, order, window=16):
    """Nats that the second of two windows costs."""
    both, first = (
        math.log(floors(train, scored[: num * window + 1], window=window)[f"kneser_ney_{order}"][way]) * num
        for num in (2, 1)
    )
    return both - first


@pytest.mark.parametrize("order", [3, 7])
def test_a_window_never_sees_what_precedes_it(order):
    train, scored = (torch.tensor(text) for text in sample_texts(3_000, 33))
    changed = scored.clone()
    changed[15] = PRINTABLE_ASCII.encode("~")[0]
    moved = {
        way: abs(second_window(train, scored, way, order) - second_window(train, changed, way, order)) for way in WAYS
    }
    assert moved["window"] < 1e-9
    assert moved["full"] > 1e-3
    assert moved["adaptive"] > 1e-3


def test_the_first_character_of_a_window_has_one_character_before_it():
    train, scored = (torch.tensor(text) for text in sample_texts(3_000, 65))
    by_ones = floors(train, scored, window=1)
    for order in ORDERS:
        assert by_ones[f"kneser_ney_{order}"]["window"] == by_ones["kneser_ney_2"]["full"]
    one_window = floors(train, scored, window=64)
    for order in ORDERS:
        assert one_window[f"kneser_ney_{order}"]["window"] == one_window[f"kneser_ney_{order}"]["full"]


def test_what_is_predicted_is_what_the_models_predict():
    data = load_windows(hrm_bench.compose("data=sample", "data.train_chars=2000", "data.test_chars=600"))
    scored = data.test
    baselines = floors(data.train.indices, scored.indices, window=64)
    predicted = scored.indices[1 : scored.num_characters + 1]
    assert scored.num_characters == 9 * 64 < 600 - 1
    assert baselines["unigram"]["full"] == math.exp(unigram_nll(data.train.indices, predicted))
    later = scored.indices.clone()
    later[scored.num_characters + 1 :] = 96
    assert floors(data.train.indices, later, window=64) == baselines
    later[scored.num_characters] = 96
    assert all(
        floors(data.train.indices, later, window=64)[name] != baselines[name] for name in baselines if name != "uniform"
    )


def test_the_best_floor_is_the_lowest_of_the_ways_that_are_asked_for():
    baselines = {"one": {"full": 9.0, "adaptive": 3.0}, "two": {"full": 8.0, "window": 8.5, "adaptive": 4.0}}
    assert best(baselines, "full", "window") == ("two", "full", 8.0)
    assert best(baselines, "window") == ("two", "window", 8.5)
    assert best(baselines, "adaptive") == ("one", "adaptive", 3.0)


def test_the_command_shows_both_splits_and_names_the_best(tmp_path):
    words = [
        "data=sample",
        "data.train_chars=4000",
        "data.validation_chars=700",
        "data.test_chars=600",
        "data.window=32",
    ]
    done = command(*words, cwd=tmp_path, module="hrm_bench.floors")
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []
    data = load_windows(hrm_bench.compose(*words))
    validation, test = done.stdout.split("test: perplexity per character (bits)")
    assert "672 validation and 576 test characters of sample, 4,000 training characters, windows of 32" in test
    for shown, split in ((validation, data.validation), (test, data.test)):
        baselines = floors(data.train.indices, split.indices, window=32)
        for name, figures in baselines.items():
            (line,) = re.findall(rf"│ {name} .*", shown)
            cells = [f"{figures[way]:.2f} ({math.log2(figures[way]):.3f})" for way in WAYS if way in figures]
            assert re.findall(r"[\d.]+ \([\d.]+\)", line) == cells
        for kind, ways in (("frozen", ("full", "window")), ("window", ("window",)), ("adaptive", ("adaptive",))):
            name, way, perplexity = best(baselines, *ways)
            assert f"Best {kind} n-gram model: {name} {way}, {perplexity:.2f} (" in shown


def test_bad_input_is_one_line_a_fault_and_status_2(tmp_path):
    done = command("data=sample", "data.window=0", "seed=-1", cwd=tmp_path, module="hrm_bench.floors")
    assert (done.returncode, done.stdout) == (2, "")
    first, second = done.stderr.splitlines()
    assert first.startswith("hrm_bench: data.window=0: must be at least 1 ")
    assert second.startswith("hrm_bench: seed=-1: must be from 0 to 4294967295; ")


def test_real_wikitext_has_the_unigram_counts_of_the_reports(wikitext):
    data = load_windows(hrm_bench.compose("data=wikitext2"))
    validation, test = (floors(data.train.indices, split.indices, window=64) for split in (data.validation, data.test))
    assert (round(validation["unigram"]["full"], 2), round(test["unigram"]["full"], 2)) == (23.25, 28.39)
    assert [round(validation["kneser_ney_5"][way], 2) for way in WAYS] == [7.58, 7.71, 5.32]
    assert [round(test["kneser_ney_5"][way], 2) for way in WAYS] == [6.52, 6.63, 3.92]
