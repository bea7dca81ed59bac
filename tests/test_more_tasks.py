"""Text twice, state tracking and pointer chase: what they ask, and that their exact levels are exact."""

import itertools
import math
import re
from collections import Counter, defaultdict

import pytest
import torch
from conftest import compose, fitting

import hrm_bench
from hrm_bench.cells.run import run_cell
from hrm_bench.data import corpora
from hrm_bench.data.kneser_ney import Counts
from hrm_bench.errors import UsageError
from hrm_bench.evidence import answers
from hrm_bench.steps import UNSCORED
from hrm_bench.training.build import build

FEW = ["data.task.train_samples=64", "data.task.validation_samples=20", "data.task.test_samples=20"]
TINY = ["model.width=16", "model.num_heads=2", "model.hidden_width=24", "logger=none", "recipe.max_epochs=2"]
TWICE = ["data=text_twice", "data.task.text=sample"]
WORDS = ["data=state_tracking", "data.task.length=4", "data.task.longest=8", "data.task.bin=2", "data.task.shortest=1"]


def corpus(*words):
    return corpora.load(compose(*words).data)


def samples(text, length):
    """Each sample as its characters, and its answers by place."""
    for tokens, targets in zip(text.indices[:-1].split(length), text.targets.split(length), strict=True):
        places = (targets != UNSCORED).nonzero().flatten().tolist()
        spoken = "".join(text.vocabulary.characters[index] for index in tokens.tolist())
        yield spoken, {place: text.vocabulary.characters[int(targets[place])] for place in places}


# Groups as one learns them at school: numbers that are added, and rows of things that change places.


def added(number):
    return lambda state, letter: (state + letter) % number


def reordered(row, letter):
    places = next(itertools.islice(itertools.permutations(range(len(row))), letter, None))
    return tuple(places[thing] for thing in row)


NAIVE = {  # letters of a word, the state before it, and the state after a letter
    "parity": ([0, 1], 0, added(2)),
    "Z5": ([4, 0, 1], 0, added(5)),
    "S3": (range(6), (0, 1, 2), reordered),
    "S5": (range(120), (0, 1, 2, 3, 4), reordered),
}


def state_after(group, word):
    _, state, step = NAIVE[group]
    for letter in word:
        state = step(state, letter)
    return state


def nats_given(group, length, start):
    """The mean nats of a word's state for a reader who knows its letters from ``start`` on, by counting all words."""
    letters = NAIVE[group][0]
    seen = defaultdict(Counter)
    for word in itertools.product(letters, repeat=length):
        seen[word[start:]][state_after(group, word)] += 1
    total = sum(number * math.log(sum(c.values()) / number) for c in seen.values() for number in c.values())
    return total / len(letters) ** length


@pytest.mark.parametrize("ask", ["end", "each"])
@pytest.mark.parametrize(("group", "longest"), [("parity", 9), ("Z5", 8), ("S3", 5)])
def test_the_levels_of_state_tracking_are_those_that_counting_all_words_gives(group, longest, ask):
    words = [f"data.task.group={group}", f"data.task.ask={ask}", f"data.task.longest={longest}"]
    task = corpora.task_of(compose(*WORDS, *words, "data.task.windows=3", "data.window=4").data)
    for split, most in (("validation", 4), ("test", longest)):
        levels = answers.levels(task, split)
        for level, starts in {
            "no_memory": lambda length: length,
            "last_6": lambda length: max(0, length - (5 if ask == "end" else 6)),
            "own_window": lambda length: max(0, length - 3) if ask == "end" else (length - 1) // 4 * 4,
        }.items():
            nats = [nats_given(group, length, starts(length)) for length in range(1, most + 1)]
            assert levels[level] == pytest.approx(math.exp(sum(nats) / most)), (split, level)
        assert levels["chance"] == len(
            {state_after(group, word) for word in itertools.product(NAIVE[group][0], repeat=4)}
        )
        assert levels["optimum"] == 1


@pytest.mark.parametrize("group", NAIVE)
@pytest.mark.parametrize("ask", ["end", "each"])
def test_the_answers_of_state_tracking_are_products(group, ask):
    lengths = ["data.task.length=8", "data.task.longest=12", "data.window=7", "data.task.windows=2"]
    text = corpus(*WORDS, f"data.task.group={group}", f"data.task.ask={ask}", *lengths, *FEW).test
    elements = {
        "parity": [0, 1],
        "Z5": [0, 1, 2, 3, 4],
        "S3": [*itertools.permutations(range(3))],
        "S5": [*itertools.permutations(range(5))],
    }[group]
    asked_after = set()
    for spoken, asked in samples(text, 14):
        word = [text.vocabulary.characters.index(symbol) for symbol in spoken.strip(".=")]
        assert set(word) <= set(NAIVE[group][0])
        assert [*asked] == ([13] if ask == "end" else [*range(12)])
        for place, answer in asked.items():
            length = len(word) if ask == "end" else place + 1
            asked_after.add(length)
            assert elements[text.vocabulary.characters.index(answer)] == state_after(group, word[:length])
    assert max(asked_after) == 12


def test_words_that_are_longer_than_the_trained_ones_are_in_the_test_alone():
    for ask in ("end", "each"):
        words = [*WORDS, "data.task.group=S3", f"data.task.ask={ask}", "data.window=9", "data.task.shortest=3"]
        splits = corpus(*words, "data.task.test_samples=60").splits
        places = {split: [place for _, asked in samples(text, 9) for place in asked] for split, text in splits.items()}
        lengths = {split: {len(spoken.strip(".=")) for spoken, _ in samples(text, 9)} for split, text in splits.items()}
        if ask == "end":
            assert lengths == {"train": {1, 2, 3, 4}, "validation": {3, 4}, "test": {3, 4, 5, 6, 7, 8}}
        else:
            assert lengths == {"train": {4}, "validation": {4}, "test": {8}}
            assert {split: (min(some), max(some)) for split, some in places.items()} == {
                "train": (0, 3),
                "validation": (2, 3),
                "test": (2, 7),
            }
        labels = {split: set(text.labels[text.targets != UNSCORED].tolist()) for split, text in splits.items()}
        assert labels == {"train": {2, 4}, "validation": {4}, "test": {4, 6, 8}}


def test_the_levels_of_pointer_chase_are_those_that_counting_all_cycles_gives():
    task = corpora.task_of(compose("data=pointer_chase", "data.task.letters=6", "data.task.steps=3").data)
    levels = task.levels()

    def nats_given(steps, known):
        """The mean nats of the letter so many steps after the first one, for a reader of the next ``known`` letters."""
        seen = defaultdict(Counter)
        for others in itertools.permutations(range(1, 6)):
            seen[others[:known]][others[steps - 1]] += 1
        total = sum(number * math.log(sum(c.values()) / number) for c in seen.values() for number in c.values())
        return total / math.factorial(5)

    for level, known in (("no_memory", 0), ("steps_1", 1), ("steps_2", 2), ("optimum", 6)):
        nats = [nats_given(steps, known) for steps in (1, 2, 3)]
        assert levels[level] == pytest.approx(math.exp(sum(nats) / 3)), level
    assert levels["chance"] == 6
    assert "steps_4" not in levels


def test_the_answers_of_pointer_chase_are_as_many_steps_on():
    text = corpus("data=pointer_chase", "data.task.letters=8", "data.task.steps=4", *FEW).test
    labels = text.labels.split(56)
    for (spoken, asked), label in zip(samples(text, 56), labels, strict=True):
        follows = dict(zip(spoken[:16:2], spoken[1:16:2].lower(), strict=True))
        assert sorted(follows) == sorted(follows.values()) == list("abcdefgh")
        assert sorted(spoken[place - 2] for place in asked) == list("1234")
        for place, answer in asked.items():
            letter, steps = spoken[place - 1], int(spoken[place - 2])
            assert (spoken[place], label[place]) == ("=", steps)
            reached = letter
            for step in range(8):
                reached = follows[reached]
                assert (reached == letter) == (step == 7)
                if step == steps - 1:
                    assert answer == reached.upper()


def test_the_second_reading_of_text_twice_is_the_first_and_is_real_text():
    text = corpus(*TWICE, "data.task.gap=2", *FEW)
    for name, split in text.splits.items():
        whole = "".join(dict(zip(("train", "validation", "test"), corpora.sources.sample(), strict=True))[name])
        for spoken, asked in samples(split, 256):
            assert spoken[:192] in whole
            assert spoken[192:] == spoken[:64]
            if name == "train":
                assert [*asked] == [*range(255)]
            else:
                assert asked == {place: spoken[place + 1] for place in range(192, 255)}
    labels = text.test.labels[text.test.targets != UNSCORED].view(-1, 63)
    assert labels.unique(dim=0).tolist() == [[1] * 16 + [2] * 16 + [3] * 16 + [4] * 15]


def test_the_bag_of_text_twice_is_what_drawing_from_the_bag_gives():
    text = corpus(*TWICE, *FEW)
    for split in ("validation", "test"):
        nats = []
        for spoken, asked in samples(text.splits[split], 192):
            bag = Counter(spoken[129:])
            for answer in asked.values():
                nats.append(-math.log(bag[answer] / bag.total()))
                bag[answer] -= 1
            assert not bag.total()
        levels = answers.levels(text.task, split)
        assert levels == {"chance": 97, "bag": pytest.approx(math.exp(sum(nats) / len(nats))), "optimum": 1}


def test_text_twice_takes_no_sample_with_a_character_outside_the_vocabulary(tmp_path):
    sentences = (f"Zoë met Anna and {number} more, at noon. " for number in range(200))
    (tmp_path / "mine.txt").write_text("".join(sentences), encoding="utf-8")
    words = ["data=text_twice", "data.task.text=text_file", f"data.task.path={tmp_path / 'mine.txt'}", "data.window=8"]
    for text in corpus(*words, *FEW).splits.values():
        assert not any("Zo " in spoken[:16] for spoken, _ in samples(text, 24))
    (tmp_path / "mine.txt").write_text("Zoë " * 300, encoding="utf-8")
    with pytest.raises(UsageError, match=r"data\.task\.text=text_file: its train text has no 128 characters in a row"):
        corpus(*words[:3], *FEW)


def test_the_path_of_a_text_is_in_no_identity_but_its_beginning_is(tmp_path):
    for name in ("one.txt", "other.txt"):
        (tmp_path / name).write_text("Anna met Otto at noon, and Otto met Anna. " * 90, encoding="utf-8")
    words = ["data=text_twice", "data.task.text=text_file", *FEW]
    prints = [
        corpus(*words, f"data.task.path={tmp_path / name}", *more).fingerprint
        for name, more in (("one.txt", []), ("other.txt", []), ("one.txt", ["data.task.train_chars=500"]))
    ]
    assert prints[0] == prints[1] != prints[2]


FIXED = {
    "parity": (["data=state_tracking"], "no_memory"),
    "parity at the end": (["data=state_tracking", "data.task.ask=end"], "no_memory"),
    "Z5": (["data=state_tracking", "data.task.group=Z5"], "no_memory"),
    "S3": (["data=state_tracking", "data.task.group=S3"], "no_memory"),
    "S5 at the end": (["data=state_tracking", "data.task.group=S5", "data.task.ask=end"], "no_memory"),
    "pointer_chase": (["data=pointer_chase"], "no_memory"),
}


@pytest.mark.parametrize("name", FIXED)
def test_fixed_n_grams_stay_at_the_level_of_no_memory(name):
    words, level = FIXED[name]
    text = corpus(*words, "data.task.train_samples=400", "data.task.test_samples=100")
    baselines = answers.floors(text, "test", window=text.task.window)
    fixed = [ways[way] for ways in baselines.values() for way in ("full", "window") if way in ways]
    assert min(fixed) >= 0.995 * baselines[level]["exact"]
    growing = [ways[way] for ways in baselines.values() for way in ("adaptive", "sample") if way in ways]
    assert min(growing) >= 0.995 * baselines[level]["exact"]


def test_fixed_n_grams_read_a_window_twice_alike_and_counts_of_the_sample_find_it():
    text = corpus(*TWICE, "data.task.train_samples=200", "data.task.test_samples=20")
    baselines, counts, nats = answers.floors(text, "test", window=64), Counts(97), []
    for tokens in text.train.indices[:-1].split(192):
        whole = bytes(tokens.tolist())
        for place in range(1, len(whole)):
            counts.add(whole[max(0, place - 6) : place + 1], min(place, 6))
    for tokens in text.test.indices[:-1].split(192):
        first = bytes(tokens[:64].tolist())
        for place in range(1, 64):
            ngram = first[max(0, place - 6) : place + 1]
            nats.append(-math.log(counts.probabilities(ngram, len(ngram) - 1)[-1]))
    first = math.exp(sum(nats) / len(nats))
    fixed, growing = baselines["kneser_ney_7"]["window"], baselines["kneser_ney_7"]
    assert fixed == pytest.approx(first)
    assert growing["sample"] < growing["adaptive"] < 0.5 * fixed
    assert growing["sample"] < 1.5


def test_an_empty_memory_reads_the_second_time_as_the_first():
    model = build(compose(*fitting("model=hrm_memory", "memory=reset", *TWICE, *TINY, *FEW)), 97).eval()
    tokens = corpus(*TWICE, *FEW).test.indices[:-1].view(-1, 192)[:3].long()
    with torch.no_grad():
        first, memory = model(tokens[:, :64])
        emptied, _ = model(tokens[:, 128:])
        again, _ = model(tokens[:, 128:], memory)
    assert torch.equal(first, emptied)
    assert not torch.allclose(first, again)


def test_the_record_has_the_accuracy_by_length(tmp_path):
    words = ["data=state_tracking", "data.task.longest=48", *FEW, *TINY]
    record = run_cell(compose(*fitting("model=lstm", *words)), tmp_path)
    assert record["status"] == "finished", record.get("reason")
    assert [*record["answers"]["validation"]] == ["all", "8", "16", "24", "32"]
    assert [*record["answers"]["test"]] == ["all", "8", "16", "24", "32", "40", "48"]
    assert record["answers"]["test"]["8"]["answers"] == 20  # words of 8 letters alone: shorter ones are not scored
    assert record["answers"]["test"]["48"]["answers"] == 20 * 8
    assert record["floors"]["test"]["no_memory"] == {"exact": pytest.approx(2)}


def test_a_recurrence_learns_parity_and_holds_it_beyond_the_trained_length(tmp_path):
    words = ["data=state_tracking", "data.task.length=8", "data.task.longest=16", "data.window=16", *FEW[1:]]
    rate = ["data.task.train_samples=512", "recipe.learning_rate=0.02", "recipe.max_epochs=10", "model.width=24"]
    record = run_cell(compose("model=lstm", *words, *rate, "logger=none"), tmp_path)
    assert record["answers"]["test"]["8"]["accuracy"] == 1
    assert record["answers"]["test"]["16"]["accuracy"] > 0.9


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["data=state_tracking", "data.task.group=S4"], r"data\.task\.group=S4: allowed are parity, Z5, S3, S5; .*"),
        (["data=state_tracking", "data.task.ask=middle"], r"data\.task\.ask=middle: allowed are end, each.*"),
        (["data=state_tracking", "data.task.longest=8"], r"data\.task\.longest=8: .*; try data\.task\.longest=32"),
        (["data=state_tracking", "data.task.shortest=40"], r"data\.task\.shortest=40: .*; try data\.task\.shortest=32"),
        (["data=state_tracking", "data.task.bin=12"], r"data\.task\.bin=12: .*; try data\.task\.bin=4"),
        (["data=state_tracking", "data.window=40"], r"data\.window=40: .*; try data\.window=56"),
        (["data=state_tracking", "data.windows_per_sample=2"], r"data\.windows_per_sample=2: .*"),
        (["data=state_tracking", "data.path=here"], r"data\.path=here: a task reads no file; try data\.path=null"),
        (["data=pointer_chase", "data.task.letters=30"], r"data\.task\.letters=30: .*; try data\.task\.letters=26"),
        (["data=pointer_chase", "data.task.steps=9"], r"data\.task\.steps=9: .*; try data\.task\.steps=8"),
        (["data=pointer_chase", "data.task.letters=1"], r"data\.task\.steps=8: .*; try data\.task\.letters=16"),
        (["data=pointer_chase", "data.window=32"], r"data\.window=32: .*; try data\.window=56"),
        (["data=text_twice", "data.task.text=mine"], r"data\.task\.text=mine: allowed are wikitext2, .*"),
        (["data=text_twice", "data.task.text=enwik8"], r"data\.task\.path=null: .*; give data\.task\.path=FILE"),
        ([*TWICE, "data.task.path=here"], r"data\.task\.path=here: .*add data\.task\.text=text_file"),
        ([*TWICE, "data.path=here"], r"data\.path=here: data\.task\.path names the text .*; try data\.path=null"),
        ([*TWICE, "data.window=1"], r"data\.window=1: .*; try data\.window=64"),
        ([*TWICE, "data.task.train_chars=0"], r"data\.task\.train_chars=0: .*"),
        ([*TWICE, "data.windows_per_sample=2"], r"data\.windows_per_sample=2: .*; try data\.windows_per_sample=3"),
    ],
)
def test_a_value_that_does_not_fit_a_task_is_one_line(words, line):
    with pytest.raises(UsageError) as error:
        hrm_bench.compose(*words)
    assert re.fullmatch(line, str(error.value))


def test_a_text_that_is_not_there_is_one_line_in_the_keys_of_the_task(tmp_path):
    cfg = compose("data=text_twice", "data.task.text=text_file", f"data.task.path={tmp_path / 'none.txt'}")
    with pytest.raises(
        UsageError, match=r"^data\.task\.path=.*none\.txt: cannot be read .*; give data\.task\.path=FILE$"
    ):
        corpora.load(cfg.data)
    cfg = compose("data=text_twice", f"data.task.path={tmp_path / 'none'}")
    with pytest.raises(UsageError, match=r"^data\.task\.path=.*none: no such folder; .*data\.task\.text=sample$"):
        corpora.load(cfg.data)
