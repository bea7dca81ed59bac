"""Tasks: generated samples, of which only the answers are scored."""

import math
import re

import pytest
import torch
from conftest import compose, fitting

import hrm_bench
from hrm_bench.cells.cell import Cell
from hrm_bench.cells.preflight import check
from hrm_bench.cells.run import run_cell
from hrm_bench.data import corpora
from hrm_bench.data.kneser_ney import Counts
from hrm_bench.data.task import digest_of
from hrm_bench.errors import UsageError
from hrm_bench.evidence import answers
from hrm_bench.layers import carried
from hrm_bench.steps import UNSCORED
from hrm_bench.training.build import build, load_windows

FEW = ["data.task.train_samples=64", "data.task.validation_samples=20", "data.task.test_samples=20"]
TINY = ["model.width=16", "model.num_heads=2", "model.hidden_width=24", "logger=none", "recipe.max_epochs=2"]


def corpus(*words):
    return corpora.load(compose(*words).data)


def cell(*words, model="hrm"):
    return compose(*fitting(f"model={model}", *FEW, *TINY, *words))


@pytest.fixture(scope="module")
def recall():
    return corpus("data=recall")


def test_recall_states_its_levels_exactly(recall):
    levels = recall.task.levels()
    assert levels["no_memory"] == pytest.approx(math.prod(range(19, 27)) ** (1 / 8))
    assert (round(levels["no_memory"], 2), round(levels["bag"], 2), levels["optimum"]) == (22.38, 3.76, 1)
    more = corpus("data=recall", "data.task.gap=2", "data.task.distractors=8").task.levels()
    assert more["bag"] == pytest.approx(math.prod(range(9, 17)) ** (1 / 8))


def test_every_value_is_asked_once_and_is_the_one_that_was_stated():
    text = corpus("data=recall", "data.task.gap=3", "data.task.distractors=5").test
    for tokens, targets in zip(text.indices[:-1].split(64), text.targets.split(64), strict=True):
        stated = dict(zip(tokens[:16:2].tolist(), tokens[1:16:2].tolist(), strict=True))
        asked = (targets != UNSCORED).nonzero().flatten()
        assert asked.min() >= 48
        assert sorted(tokens[asked].tolist()) == sorted(stated)
        assert [stated[key] for key in tokens[asked].tolist()] == targets[asked].tolist()
        between = tokens[16:48]
        assert int((between != 52).sum()) == 10
        assert not set(between.tolist()) & {*stated, *stated.values()}


def test_fixed_n_grams_stay_at_the_level_of_no_memory_and_counts_of_the_sample_find_what_is_repeated():
    recall = corpus("data=recall", "data.task.train_samples=300", "data.task.test_samples=60")
    baselines = answers.floors(recall, "test", window=16)
    levels = recall.task.levels()
    fixed = [ways[way] for ways in baselines.values() for way in ("full", "window") if way in ways]
    assert min(fixed) >= levels["no_memory"]
    assert baselines["kneser_ney_2"]["sample"] < levels["bag"]
    assert min(ways["adaptive"] for name, ways in baselines.items() if "kneser" in name) < min(fixed)


def test_counts_that_are_forgotten_leave_no_trace():
    text, counts, same = b"abracadabra", Counts(256), Counts(256)
    for position in range(5):
        counts.add(text, position)
        same.add(text, position)
    for position in range(5, len(text)):
        counts.add(text, position)
    assert counts.probabilities(text, 7) != same.probabilities(text, 7)
    for position in reversed(range(5, len(text))):
        counts.discard(text, position)
    assert counts.probabilities(text, 7) == same.probabilities(text, 7)
    for levels in ("raw", "continuation"):
        for one, other in zip(getattr(counts, levels).values(), getattr(same, levels).values(), strict=True):
            assert (one.counts, one.contexts) == (other.counts, other.contexts)
            assert one.num_with_count[1:5] == other.num_with_count[1:5]


@pytest.mark.parametrize("task", ["recall", "text_twice data.task.text=sample", "state_tracking", "pointer_chase"])
def test_no_sample_is_in_two_splits_and_each_epoch_has_its_own(task):
    cfg = compose(*f"data={task}".split(), *FEW)
    text = corpora.load(cfg.data)
    windows = load_windows(cfg, text)
    digests = {split: text.task.digests(some) for split, some in text.splits.items()}
    loader = windows.train_dataloader()
    epochs = []
    for epoch in (0, 1, 1):
        windows.batches.set_epoch(epoch)
        tokens = torch.cat([batch for batch, _ in loader])
        epochs.append({digest_of(row.numpy()) for row in tokens})
    assert epochs[0] == digests["train"]
    assert epochs[1] == epochs[2]
    assert not epochs[0] & epochs[1]
    for epoch in epochs:
        assert not epoch & (digests["validation"] | digests["test"])
    assert not digests["validation"] & digests["test"]


def test_a_sample_of_a_split_that_is_scored_is_drawn_again():
    task = corpora.task_of(compose("data=recall", "data.task.pairs=1", "data.window=2", *FEW).data)
    texts = task.texts()
    assert not task.digests(texts["train"]) & task.digests(texts["test"])
    crowded = corpora.task_of(
        compose("data=recall", "data.task.pairs=1", "data.window=2", "data.task.test_samples=900").data
    )
    with pytest.raises(UsageError, match="too few different samples"):
        crowded.texts()


@pytest.mark.parametrize("objective", ["deep_supervision", "last_segment", "through_time"])
def test_a_window_without_a_question_takes_no_step_but_writes_the_memory(objective):
    model = build(cell("data=recall", f"objective={objective}", model="hrm_memory"), 53)
    task = corpora.task_of(compose("data=recall", *FEW).data)
    text = task.texts()["train"]
    tokens, targets = text.indices[:-1].view(-1, 32)[:4].long(), text.targets.view(-1, 32)[:4].long()
    windows = [*zip(tokens.split(16, dim=1), targets.split(16, dim=1), strict=True)]
    steps, losses = model.objective.steps(model, windows, model.initial_memory(4), weight=1.0), []
    while True:
        try:
            losses += [loss.item() for loss in next(steps).losses]
        except StopIteration as end:
            trained = end.value
            break
    expected = {"deep_supervision": model.num_segments, "last_segment": 1, "through_time": 1}
    assert len(losses) == expected[objective]
    assert all(map(math.isfinite, losses))
    assert trained.losses[0] == 0 < trained.losses[1]
    written = [carried.tensors(memory) for memory in (trained.memory, model(tokens)[1], model(tokens[:, 16:])[1])]
    assert all(map(torch.equal, written[0], written[1]))
    assert not any(map(torch.equal, written[0], written[2]))


def test_the_record_has_perplexity_and_accuracy_of_the_answers_by_slice(tmp_path):
    record = run_cell(cell("data=recall", "memory=reset", model="hrm_memory"), tmp_path)
    assert record["status"] == "finished", record.get("reason")
    every = record["answers"]["test"]["all"]
    assert every["answers"] == record["test"]["characters"] == 20 * 8
    assert every["perplexity"] == pytest.approx(record["test"]["perplexity"], rel=1e-5)
    assert record["memory_use"]["test"]["own"] == pytest.approx(every["perplexity"], rel=1e-5)
    by_slice = [record["answers"]["test"][str(number)] for number in range(1, 9)]
    assert sum(some["nll"] for some in by_slice) / 8 == pytest.approx(every["nll"])
    assert sum(some["accuracy"] for some in by_slice) / 8 == pytest.approx(every["accuracy"])
    assert record["floors"]["test"]["optimum"] == {"exact": 1.0}
    assert record["causal"]


def test_a_model_without_memory_stays_at_the_level_of_no_memory(tmp_path):
    words = ["data=recall", "memory=none", "data.task.train_samples=400", "recipe.max_epochs=3"]
    record = run_cell(cell(*words, model="lstm"), tmp_path)
    assert record["test"]["perplexity"] > record["floors"]["test"]["no_memory"]["exact"]


def test_what_stands_in_the_window_is_learnt(tmp_path):
    words = ["data=recall", "data.task.gap=0", "data.task.pairs=1", "data.window=4", "data.task.train_samples=600"]
    rate = ["recipe.learning_rate=0.01", "recipe.max_epochs=8", "model.width=32"]
    record = run_cell(compose("model=lstm", *FEW[1:], "logger=none", *words, *rate), tmp_path)
    assert record["answers"]["test"]["all"]["accuracy"] > 0.9
    assert record["test"]["perplexity"] < 2


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["data.task.pairs=27"], r"data\.task\.pairs=27: .* more than 26 keys; try data\.task\.pairs=26"),
        (["data.task.distractors=1"], r"data\.task\.distractors=1: .* try data\.task\.gap=2"),
        (["data.window=8"], r"data\.window=8: .*; try data\.window=16"),
        (["data.task.pear=1"], r"data\.task\.pear: no such key; .*did you mean data\.task\.pairs\?"),
        (["data.windows_per_sample=3"], r"data\.windows_per_sample=3: .*; try data\.windows_per_sample=2"),
        (["memory=carry"], r"memory\.mode=carry: .*; try memory=reset"),
        (["recipe.distillation=1"], r"recipe\.distillation=1\.0: .*; try recipe\.distillation=0"),
        (["data.source=sample"], r"data\.source=sample: .* data=recall"),
        (["data.task.loss=some"], r"data\.task\.loss=some: allowed are scored, all; .*"),
    ],
)
def test_a_value_that_does_not_fit_a_task_is_one_line(words, line):
    with pytest.raises(UsageError) as error:
        hrm_bench.compose("data=recall", *words)
    assert re.fullmatch(line, str(error.value))


def test_a_task_is_checked_before_training(tmp_path):
    check(Cell.of(cell("data=recall", model="infini_hrm"), tmp_path))


def test_all_next_characters_can_be_trained_on_but_never_the_next_sample():
    text = corpus("data=recall", "data.task.loss=all").train
    tokens, targets = text.indices[:-1].view(-1, 32), text.targets.view(-1, 32)
    assert torch.equal(tokens[:, 1:].short(), targets[:, :-1])
    assert (targets[:, -1] == UNSCORED).all()
