"""Adaptation while reading: against plain loops, and that no prediction depends on later characters."""

import functools
import itertools
import json
import math
import os
import re

import pytest
import torch
from conftest import compose, fitting, small
from reference.adaptation import cache, dynamic
from reference.training import reference
from torch import nn

from hrm_bench import evaluate
from hrm_bench.cells import reopen
from hrm_bench.cells.run import cell_folder, run_cell
from hrm_bench.charlm import CharLM, Setting
from hrm_bench.data.corpora import Library
from hrm_bench.data.text import Text, Vocabulary
from hrm_bench.data.windows import Samples
from hrm_bench.errors import UsageError
from hrm_bench.evidence import articles, output_memory
from hrm_bench.evidence.adaptation import ADAPTIVE, PAST, adapt, groups, trained_counts, weights
from hrm_bench.evidence.floors import floors
from hrm_bench.evidence.predictors import Kernel, cached, counted
from hrm_bench.evidence.reading import Reading, Rule, read
from hrm_bench.records import store
from hrm_bench.records.extras import read_adaptation
from hrm_bench.report import __main__ as report
from hrm_bench.training.build import build

LETTERS = "abcde"
WORDS = ["data=sample", "data.window=8", "model.width=16", "model.num_heads=2", "model.hidden_width=24"]
PARTS = ("cache", "dynamic", "counts")


def text_of(seed, length):
    """Letters that repeat themselves now and then."""
    drawn = torch.randint(len(LETTERS), (length,), generator=torch.Generator().manual_seed(seed))
    return "".join(LETTERS[index] for index in drawn)


def samples(text, *, windows_per_sample=1):
    shape = {"window": 8, "windows_per_sample": windows_per_sample}
    return Samples("test", Text.read([text], Vocabulary(LETTERS)), **shape)


def model_of(*words):
    return build(compose(*fitting(*WORDS, *words)), len(LETTERS)).double()


def reading(seed, length, size=5):
    """What a model might make of a text: states, characters and probabilities."""
    stream = torch.Generator().manual_seed(seed)
    states = torch.randn(length, 3, generator=stream, dtype=torch.float64)
    given = torch.rand(length, generator=stream, dtype=torch.float64)
    return Reading(torch.randint(size, (length,), generator=stream), given, states, 4)


@pytest.mark.parametrize("kernel", [Kernel("l2", 3.0, 2.0), Kernel("dot", 2.0, 1.5)])
@pytest.mark.parametrize("length", [24, 12])  # of the source: as many windows as the text has, or fewer
def test_a_cache_is_a_loop_over_earlier_windows_and_symbols(kernel, length):
    text, other = reading(1, 24), reading(2, length)
    reaches = [None, 1, 2, 50]
    for source in (text, other):
        found = cached(text, source, kernel, reaches)
        for reach, given in zip(reaches, found, strict=True):
            expected = cache(
                kernel,
                text.states.tolist(),
                source.states.tolist(),
                source.targets.tolist(),
                window=4,
                reach=reach,
                vocabulary_size=5,
            )
            assert [one is None for one in expected] == [place < 4 for place in range(24)]
            for place, distribution in enumerate(expected):
                if distribution is None:
                    assert given[place] == text.probabilities[place]
                else:
                    assert sum(distribution) == pytest.approx(1)
                    assert float(given[place]) == pytest.approx(distribution[int(text.targets[place])])


@pytest.mark.parametrize("rule", [Rule("sgd", 0.5), Rule("adam", 0.01)])
@pytest.mark.parametrize(
    ("words", "windows_per_sample"),
    [(("model=hrm",), 1), (("model=infini_hrm", "memory=carry"), None), (("model=infini_hrm", "memory=reset"), 2)],
)
def test_dynamic_evaluation_is_a_plain_loop_that_scores_before_it_steps(words, windows_per_sample, rule):
    config = compose(*WORDS, *words)
    model, text = model_of(*words), samples(text_of(1, 50), windows_per_sample=windows_per_sample or 1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        model.head.weight.mul_(20)  # so that steps matter
    naive = reference(config, dict(model.named_parameters()))
    expected = dynamic(
        naive,
        text.indices.long(),
        window=8,
        windows_per_sample=windows_per_sample,
        optimizer=rule.optimizer,
        rate=rule.rate,
    )
    found = read(model, text, rule)
    given = torch.cat(expected).gather(1, found.targets[:, None])[:, 0]
    assert found.targets.tolist() == text.indices[1:49].tolist()
    torch.testing.assert_close(found.probabilities, given, atol=1e-7, rtol=0)
    assert (read(model, text).probabilities - given).abs().max() > 1e-3
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items() if name != "head.weight")


def test_states_are_what_the_head_read_and_give_the_probabilities_again():
    for words in (("model=hrm",), ("model=lstm",), ("model=lct_2layer",), ("model=transformer_xl",)):
        model, text = model_of(*words), samples(text_of(3, 30))
        found = read(model, text)
        given = model.head(found.states).softmax(dim=-1).gather(1, found.targets[:, None])[:, 0]
        torch.testing.assert_close(found.probabilities, given.detach())


class ByCharacter(CharLM):
    """A model whose head reads one character at a time."""

    def __init__(self, setting):
        super().__init__(setting, num_segments=1)
        self.embedding = nn.Embedding(setting.vocabulary_size, 4)
        self.head = nn.Linear(4, setting.vocabulary_size)

    def segment(self, tokens, state, memory, index):
        parts = [self.head(part) for part in self.embedding(tokens).split(1, dim=1)]
        return torch.cat(parts, dim=1), (), ()


def test_a_model_whose_head_reads_no_window_is_refused():
    setting = Setting(vocabulary_size=5, window=8, memory=small("model=hrm").memory_policy, seed=1)
    with pytest.raises(UsageError, match="ByCharacter: its head does not read one state per character"):
        read(ByCharacter(setting), samples(text_of(1, 30)))


def test_counts_grow_with_each_character_and_are_afterwards_as_they_were():
    train, text = samples(text_of(5, 200)), samples(text_of(6, 100))
    counts = trained_counts(train.indices, len(LETTERS))
    once, again = counted(counts, text), counted(counts, text)
    assert once.tolist() == again.tolist()
    for counted_before, given in ((train.indices, once), (train.indices[:0], None)):
        expected = floors(counted_before, text.indices, window=8, vocabulary_size=len(LETTERS))
        given = counted(trained_counts(counted_before, len(LETTERS)), text) if given is None else given
        assert math.exp(-float(given.log().mean())) == pytest.approx(expected["kneser_ney_7"]["adaptive"])


def test_weights_are_those_that_no_other_weights_beat():
    given = torch.rand(3, 400, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.01
    given[1] *= 0.9
    given[2] *= 0.1
    found = weights(given)
    assert float(found.sum()) == pytest.approx(1)
    best = float((found @ given).log().mean())
    grid = [(a / 40, b / 40, 1 - (a + b) / 40) for a, b in itertools.product(range(41), repeat=2) if a + b <= 40]
    losses = [float((torch.tensor(point, dtype=torch.float64) @ given).log().mean()) for point in grid]
    assert max(losses) <= best + 1e-6
    assert min(losses) < best - 0.1
    assert weights(given[:1]).tolist() == [1]


@pytest.fixture(scope="module")
def adapting():
    """What every mixture of a small model gives a scored text, as a function of the text."""
    model = model_of("model=infini_hrm", "memory=carry")
    with torch.no_grad():
        model.head.weight.mul_(20)
    counts = trained_counts(samples(text_of(1, 100)).indices, len(LETTERS))
    choosing = [samples(text_of(seed, 33)) for seed in (2, 3)]

    def given(text):
        scored = {"validation": samples(text), "test": samples(text_of(4, 33))}
        return adapt(model, groups(choosing, scored, counts), PARTS)

    return given


def names(mixture):
    return " + ".join(mixture.weights)


def test_no_mixture_depends_on_later_characters_and_the_scored_text_chooses_nothing(adapting):
    text = text_of(7, 33)
    first = adapting(text)
    for place in (12, 20, 31):  # in the middle of a window, and in the last one
        changed = text[:place] + ("b" if text[place] == "a" else "a") + text_of(8, 33)[place + 1 :]
        for before, after in zip(first, adapting(changed), strict=True):
            assert before.weights == after.weights, names(before)
            assert before.settings == after.settings, names(before)
            own, theirs = before.probabilities["validation"], after.probabilities["validation"]
            assert own[: place - 1].tolist() == pytest.approx(theirs[: place - 1].tolist(), abs=1e-9), names(before)
            assert own[place - 1] != theirs[place - 1], names(before)  # it is of the changed character
            assert (
                before.probabilities["test"].tolist() == pytest.approx(after.probabilities["test"].tolist(), abs=1e-9)
                or "another text's cache" in after.weights
            )


def test_the_probabilities_of_all_symbols_sum_to_one_under_every_mixture(adapting):
    for length in (33, 26):  # the last character of a window, and the first
        text = text_of(9, length - 1)
        by_symbol = [adapting(text + symbol + text_of(10, 33)[length:]) for symbol in LETTERS]
        for same in zip(*by_symbol, strict=True):
            total = sum(float(mixture.probabilities["validation"][length - 2]) for mixture in same)
            assert total == pytest.approx(1, abs=1e-9), names(same[0])


def test_parts_decide_which_mixtures_there_are(adapting):
    everything = [names(mixture) for mixture in adapting(text_of(7, 33))]
    assert len(set(everything)) == len(everything)
    model, scored = model_of("model=hrm"), {"validation": samples(text_of(7, 33)), "test": samples(text_of(4, 33))}
    texts = groups([samples(text_of(seed, 33)) for seed in (2, 3)], scored, None)
    assert [names(mixture) for mixture in adapt(model, texts, ["dynamic"])] == ["model", "dynamic"]
    found = [names(mixture) for mixture in adapt(model, texts, ["cache"])]
    assert found == [name for name in everything if not {PAST, ADAPTIVE, "dynamic"} & {*name.split(" + ")}]


ENGLISH = "The naïve reader of this line reads line {} of them, and then the next line. "


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Four seeds of HRM on bytes of a text with longer characters; every validation text has a rest."""
    root = tmp_path_factory.mktemp("sweep")
    text = root / "mine.txt"
    text.write_text("".join(ENGLISH.format(number) for number in range(160)), encoding="utf-8")
    words = ["data=text_file", f"data.path={text}", "data.vocabulary=bytes", "data.train_chars=2000"]
    words += ["data.validation_chars=200", "data.test_chars=200", "recipe.max_epochs=1", "logger=none"]
    for seed in range(4):
        run_cell(compose(*WORDS[1:], *words, f"seed={seed}"), root / "cells")
    return root / "cells"


def test_the_command_shows_each_mixture_beside_the_model_alone(sweep, capsys):
    records = {record["seed"]: record for record in store.read_all(sweep)}
    assert evaluate.main([str(sweep), "adapt=counts,cache"]) == 0
    shown = capsys.readouterr().out
    assert [line for line in shown.splitlines() if "is done" in line] == [
        f"hrm: seed {seed} is done" for seed in range(4)
    ]
    assert "model + 0." in shown
    by_name = {" + ".join(answer["predictors"]): answer for answer in read_adaptation(sweep)}
    assert "dynamic" not in by_name
    for split in ("validation", "test"):
        alone, counts = by_name["model"]["perplexity"][split], by_name[ADAPTIVE]["perplexity"][split]
        for seed, perplexity, level in zip(by_name["model"]["seeds"], alone, counts, strict=True):
            assert perplexity == pytest.approx(records[seed][split]["perplexity"], rel=1e-5)
            assert level == pytest.approx(records[seed]["floors"][split]["kneser_ney_7"]["adaptive"])
    assert not [name for name in by_name if "memory" in name]
    cached = by_name["model + cache"]
    assert all(sum(values) == pytest.approx(1) for values in cached["weights"])
    gain = [a - b for a, b in zip(by_name["model"]["perplexity"]["test"], cached["perplexity"]["test"], strict=True)]
    (row,) = re.findall(r"^.*model \+ 0\.\d\d cache \|.*$", (sweep / "adaptation.md").read_text(), re.MULTILINE)
    assert f"{sum(gain) / 4:+.2f} [" in row
    report.main([str(sweep)])
    assert "adaptation while reading" in (sweep / "report.html").read_text()


def test_the_command_trains_an_output_memory_on_seen_and_on_unseen_text(sweep, capsys, monkeypatch):
    monkeypatch.setattr(output_memory, "learn", functools.partial(output_memory.learn, steps=15))
    assert evaluate.main([str(sweep), "adapt=memory", "memory_chars=4000"]) == 0
    by_name = {" + ".join(answer["predictors"]): answer for answer in read_adaptation(sweep)}
    assert {"model", "output memory from own text", "output memory from unseen text"} <= by_name.keys()
    assert "model + cache" in by_name  # of an earlier command
    assert list(by_name).count("model") == 1
    unseen = by_name["output memory from unseen text"]
    assert re.fullmatch(r"K=128, 3,9\d\d characters", unseen["settings"][0]["output memory from unseen text"])
    alone = by_name["model"]["perplexity"]["test"]
    assert all(after < before for after, before in zip(unseen["perplexity"]["test"], alone, strict=True))
    assert "output memory from unseen text" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["adapt=cache"], "type python -m hrm_bench.evaluate FOLDER"),
        (["FOLDER", "adapt=cache", "adapt=counts"], "adapt: given twice; give it once"),
        (["FOLDER", "adapt=cache", "memory_chars=3000"], "memory_chars: is of an output memory; add adapt=memory"),
        (["FOLDER", "adopt=cache"], "adopt: no such key; allowed are adapt, memory_chars; did you mean adapt?"),
        (["FOLDER", "adapt=dynamo,counts"], "adapt=dynamo: no such choice; allowed are cache, dynamic, counts, memory"),
        (["FOLDER", "adapt="], "adapt=: no such choice; allowed are cache, dynamic, counts"),
        (["FOLDER", "adapt=memory", "memory_chars=64"], "memory_chars=64: must be at least 2100"),
        (["FOLDER", "adapt=memory"], "memory_chars=200000: 7,896 characters of the training split follow"),
        (["nowhere", "adapt=cache"], "nowhere: no such folder; give the folder of a sweep"),
    ],
)
def test_words_that_cannot_be_meant_are_refused_in_one_line(sweep, words, line):
    with pytest.raises(UsageError) as refused:
        evaluate.main([str(sweep) if word == "FOLDER" else word for word in words])
    assert len(refused.value.faults) == 1
    assert line in refused.value.faults[0]


def test_a_training_text_that_is_too_long_to_be_counted_is_refused_before_any_reading(sweep, monkeypatch, capsys):
    monkeypatch.setattr(reopen, "MOST_COUNTED", 1000)
    with pytest.raises(UsageError, match=r"adapt=counts: hrm has 2,\d+ training .* type adapt=dynamic,cache$"):
        evaluate.main([str(sweep), "adapt=dynamic,counts,cache"])
    assert not capsys.readouterr().out


@pytest.mark.skipif("HRM_BENCH_WIKITEXT" not in os.environ, reason="needs a copy of WikiText-2")
def test_the_articles_that_choose_are_none_that_score():
    data = compose("data=wikitext2").data
    corpus = Library().load(data)
    chosen = articles.that_choose(data, corpus)
    assert [len(samples.indices) for _, samples in chosen] == [articles.LENGTH] * articles.NUMBER
    scored = {
        tuple(held.samples.indices.tolist())
        for some in articles.of_cell(data, corpus, Library()).values()
        for held in some
    }
    assert len(scored) == 2 * articles.NUMBER
    assert not scored & {tuple(samples.indices.tolist()) for _, samples in chosen}
    late = compose("data=wikitext2", "data.validation_start=1000000", "data.validation_chars=100000").data
    with pytest.raises(
        UsageError,
        match=r"from character 9\d\d,\d\d\d of validation on lie the articles that choose; train .* ends before it",
    ):
        articles.that_choose(late, corpus)


def test_a_validation_text_without_a_rest_cannot_choose():
    data = compose("data=sample", "data.validation_chars=null").data
    with pytest.raises(UsageError, match=r"data\.validation_chars=None: .* too short to choose weights on"):
        articles.that_choose(data, Library().load(data))


def test_pieces_behind_the_scored_text_choose_where_no_articles_are_kept():
    data = compose("data=sample", "data.validation_chars=2000").data
    corpus = Library().load(data)
    held = articles.that_choose(data, corpus)
    assert [title for title, _ in held] == [p.title for p in articles.pieces(data, window=64)["validation"]]


def test_a_cell_is_read_as_it_was_scored_with_its_memory_carried(sweep, tmp_path):
    cfg = compose(
        *WORDS,
        "data.train_chars=2000",
        "data.validation_chars=500",
        "data.test_chars=500",
        "recipe.max_epochs=1",
        "logger=none",
        "model=infini_hrm",
        "memory=carry",
    )
    record = run_cell(cfg, tmp_path)
    cells = reopen.reopen(tmp_path, [record])
    (model,) = cells.models.values()
    found = read(model, cells.windows.test)
    assert math.exp(-float(found.probabilities.log().mean())) == pytest.approx(record["test"]["perplexity"], rel=1e-5)
    assert cell_folder(cfg, tmp_path).is_dir()
    assert json.loads((cell_folder(cfg, tmp_path) / "record.json").read_bytes())["test"] == record["test"]
