"""Each split has the figures of its own characters: where it begins and ends, its words, its baselines, its score."""

import math
import random
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from conftest import SMALL, compose
from torch.nn import functional

import hrm_bench
from hrm_bench import evaluate
from hrm_bench.cells.run import run_cell
from hrm_bench.data import corpora
from hrm_bench.data.text import PRINTABLE_ASCII, Text
from hrm_bench.data.windows import Samples
from hrm_bench.errors import UsageError
from hrm_bench.evidence.floors import floors
from hrm_bench.records.extras import read_rescoring

CHARACTERS = PRINTABLE_ASCII.characters

SPLITS = ("train", "validation", "test")
CELL = [*SMALL, "logger=none", "recipe.max_epochs=1"]


def words_of(lengths, num_characters, letters, seed):
    """Return text of words of these lengths, one blank after each, cut to so many characters."""
    chance = random.Random(seed)
    text = ""
    while len(text) < num_characters:
        text += "".join(chance.choices(letters, k=chance.choice(lengths))) + " "
    return text[:num_characters]


@pytest.fixture(scope="module")
def cell(tmp_path_factory):
    """A cell on three texts that differ in all that is counted of them."""
    root = tmp_path_factory.mktemp("cell")
    texts = {
        "train": words_of([2, 3, 4], 3200, "abcdefgé", seed=0),
        "validation": "a " + words_of([1, 2], 397, "abcdé", seed=1) + " ",
        "test": "I " + words_of([5, 9], 398, "efghéß", seed=2),
    }
    path = root / "text.txt"
    path.write_text("".join(texts.values()), encoding="utf-8")
    limits = {"train_chars": 3000, "validation_chars": 400, "test_chars": 250}
    texts = {name: text[:number] for (name, text), number in zip(texts.items(), limits.values(), strict=True)}
    words = [*CELL, "model=hrm", "data=text_file", f"data.path={path}"]
    cfg = compose(*words, *(f"data.{key}={number}" for key, number in limits.items()))
    record = run_cell(cfg, root)
    assert record["status"] == "finished", record["reason"]
    model = hrm_bench.build(cfg)
    (checkpoint,) = root.glob("*/best.ckpt")
    model.load_state_dict(torch.load(checkpoint, weights_only=True)["state_dict"])
    return SimpleNamespace(record=record, texts=texts, model=model.eval())


@pytest.mark.parametrize("split", ["validation", "test"])
def test_characters_words_and_word_perplexity_are_of_the_predicted_text(cell, split):
    text, scored = cell.texts[split], cell.record[split]
    num_predicted = (len(text) - 1) // 8 * 8
    assert scored["characters"] == num_predicted
    assert scored["words"] == len(text[1 : num_predicted + 1].split())
    nats = scored["nll"] * num_predicted
    assert scored["word_perplexity"] == pytest.approx(math.exp(nats / scored["words"]))


def test_unknown_characters_are_those_of_each_split(cell):
    unknown = {name: sum(character not in CHARACTERS for character in text) for name, text in cell.texts.items()}
    assert cell.record["unknown_characters"] == unknown
    assert len(set(unknown.values())) == 3


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_score_is_of_the_text_of_its_split(cell, split):
    text, _ = PRINTABLE_ASCII.encode(cell.texts[split])
    num_predicted = (len(text) - 1) // 8 * 8
    tokens, targets = (text[start : start + num_predicted].long().view(-1, 8) for start in (0, 1))
    with torch.no_grad():
        losses = functional.cross_entropy(cell.model(tokens)[0].transpose(1, 2), targets, reduction="none").double()
    assert cell.record[split]["nll"] == pytest.approx(float(losses.mean()), rel=1e-6)
    bits = (losses.mean(dim=0) / math.log(2)).tolist()
    assert cell.record["bits_by_position"][split] == pytest.approx(bits, rel=1e-6)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_ngram_baselines_are_counted_in_training_text_and_scored_on_the_split(cell, split):
    train, scored = ("".join(c if c in CHARACTERS else " " for c in cell.texts[name]) for name in ("train", split))
    num_predicted, counts, found = (len(scored) - 1) // 8 * 8, Counter(train), cell.record["floors"][split]
    frozen = -sum(math.log((counts[character] + 1) / (len(train) + 97)) for character in scored[1 : num_predicted + 1])
    grown = 0.0
    for number in range(1, num_predicted + 1):
        counts[scored[number - 1]] += 1
        grown -= math.log((counts[scored[number]] + 1) / (len(train) + number + 97))
    assert found["uniform"]["full"] == 97
    assert found["unigram"]["full"] == pytest.approx(math.exp(frozen / num_predicted))
    assert found["unigram"]["adaptive"] == pytest.approx(math.exp(grown / num_predicted))
    expected = floors(PRINTABLE_ASCII.encode(train)[0], PRINTABLE_ASCII.encode(scored)[0], window=8)
    assert {name: pytest.approx(figures, rel=1e-9) for name, figures in expected.items()} == found
    others = cell.record["floors"]["test" if split == "validation" else "validation"]
    assert all(found[name] != others[name] for name in found if name != "uniform")


TEXTS = [
    *("a bcd efg hij kl", "a b c d e f g h i", "one two three fo", "endsinblank     ", " begins with blank"),
    *("I am", "x", "a ", " a", "  ", "é è ß one", "abcdefgh ijklmnop", "abcdefghi jklmnopq r"),
]


@pytest.mark.parametrize("text", TEXTS, ids=repr)
@pytest.mark.parametrize("window", [1, 2, 8])
def test_windows_characters_and_words_of_a_text_of_any_length(text, window):
    for length in range(window + 1, len(text) + 1):
        part = text[:length]
        samples = Samples("test", Text.read([part]), window=window, windows_per_sample=1)
        assert samples.num_windows == len([start for start in range(0, length, window) if start + window < length])
        assert samples.num_characters == samples.num_windows * window
        assert samples.num_words == len(part[1 : samples.num_characters + 1].split())


@pytest.mark.parametrize("num_windows", [1, 2, 5])
def test_a_text_of_whole_windows_lacks_the_character_after_the_last(num_windows):
    for excess, expected in ((0, num_windows - 1), (1, num_windows), (2, num_windows)):
        text = Text.read(["x" * (8 * num_windows + excess)])
        if expected:
            assert Samples("test", text, window=8, windows_per_sample=1).num_windows == expected
        else:
            with pytest.raises(UsageError, match="too few for one window"):
                Samples("test", text, window=8, windows_per_sample=1)


@pytest.fixture(scope="module")
def long_text(tmp_path_factory):
    """A text file whose validation part takes three reads, and its text."""
    path = tmp_path_factory.mktemp("text") / "long.txt"
    text = 32 * words_of([3, 4, 5, 6, 7], 50_000, "abcdefghijklmnopqrstuvwxyzé", seed=3)
    path.write_text(text, encoding="utf-8")
    return path, text


BLOCK = 65_536  # bytes of a file that are read at a time


@pytest.mark.parametrize("start", [0, 1, BLOCK - 5000, BLOCK, BLOCK + 1, 2 * BLOCK - 7, 2 * BLOCK + 4321])
def test_validation_begins_after_as_many_characters_as_are_left_out(long_text, start):
    path, text = long_text
    words = [f"data.validation_start={start}", "data.train_chars=9", "data.validation_chars=20000", "data.test_chars=9"]
    corpus = corpora.load(compose("data=text_file", f"data.path={path}", *words).data)
    expected, _ = PRINTABLE_ASCII.encode(text[1_280_000 + start : 1_440_000][:20_000])
    assert torch.equal(corpus.validation.indices, expected)


@pytest.mark.parametrize("limit", [BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 99, None])
def test_each_split_is_read_as_far_as_its_limit(long_text, limit):
    path, text = long_text
    words = [f"data.{split}_chars={'null' if limit is None else limit}" for split in SPLITS]
    corpus = corpora.load(compose("data=text_file", f"data.path={path}", *words).data)
    for split, begin, end in zip(SPLITS, (0, 1_280_000, 1_440_000), (1_280_000, 1_440_000, 1_600_000), strict=True):
        expected, unknown = PRINTABLE_ASCII.encode(text[begin:end][:limit])
        assert torch.equal(getattr(corpus, split).indices, expected)
        assert getattr(corpus, split).unknown_characters == unknown


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """The answers of three cells of the same weights: one has another validation text, one another test text."""
    root = tmp_path_factory.mktemp("sweep")
    words = [*CELL, "model=hrm", "data.train_chars=400", "data.validation_chars=100", "recipe.learning_rate=0.01"]
    for others in (
        ["data.test_chars=100"],
        ["data.test_chars=100", "data.validation_start=900"],
        ["data.test_chars=60"],
    ):
        assert run_cell(compose(*words, *others), root)["status"] == "finished"
    evaluate.main([str(root)])
    return read_rescoring(root)


@pytest.mark.parametrize(("split", "same"), [("validation", "validation_start=0"), ("test", "test_chars=100")])
def test_nothing_about_one_scored_text_follows_from_the_other(asked, split, same):
    """Q heads and counts come from the training text."""
    one, other = (each for each in asked if each["split"] == split and same in each["variant"])
    assert one["variant"] != other["variant"]
    assert one["halting"]
    for question in one.keys() - {"variant"}:
        assert one[question] == other[question], question


@pytest.mark.parametrize(("split", "same"), [("validation", "test_chars=100"), ("test", "validation_start=0")])
def test_another_scored_text_has_other_answers(asked, split, same):
    one, other = (each for each in asked if each["split"] == split and same in each["variant"])
    for question in ("scored", "sliding", "averaged_seeds", "with_counts", "segments", "halting"):
        assert one[question] != other[question], question
