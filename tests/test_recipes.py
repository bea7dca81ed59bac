"""What recipe=tuned adds to training, each against a naive reference, and off where the published recipe has it off."""

import math

import pytest
import torch
from conftest import FEW, MODELS, QUICK, compose, fitting, quick, small, watched, weights, windows_trained
from torch import nn

import hrm_bench
from hrm_bench.cells.run import cell_folder, run_cell
from hrm_bench.config.identity import identity
from hrm_bench.data.windows import TrainingBatches
from hrm_bench.errors import UsageError
from hrm_bench.layers.dropout import Dropout
from hrm_bench.training.build import load_windows
from hrm_bench.training.fit import num_epochs


@pytest.mark.parametrize("name", MODELS)
def test_every_model_trains_by_the_tuned_recipe(name, tmp_path):
    record = run_cell(compose(*fitting(*QUICK, f"model={name}", "recipe=tuned", *FEW, "logger=none")), tmp_path)
    assert record["status"] == "finished", record.get("reason")
    assert len(record["history"]) == 3


def test_dropout_zeroes_a_lanes_features_at_all_characters_and_keeps_the_mean():
    torch.manual_seed(0)
    dropout = Dropout("embedding")
    hidden = torch.ones(400, 5, 50)
    assert dropout(hidden) is hidden
    dropout.rate = 0.25
    masked = dropout(hidden)
    assert torch.equal(masked, masked[:, :1].expand_as(masked))
    assert sorted(masked.unique().tolist()) == pytest.approx([0, 1 / 0.75])
    assert float(masked.mean()) == pytest.approx(1, abs=0.02)
    assert dropout.eval()(hidden) is hidden


@pytest.mark.parametrize("site", ["embedding", "attention", "feed_forward", "head"])
def test_each_rate_of_the_recipe_reaches_its_site_and_no_other(site):
    model = small("model=infini_hrm", f"recipe.{site}_dropout=0.5")
    dropouts = [module for module in model.modules() if isinstance(module, Dropout)]
    assert {dropout.site for dropout in dropouts if dropout.rate} == {site}
    assert model.notes == []
    tokens = torch.zeros(2, 8, dtype=torch.long)
    torch.manual_seed(0)
    first, second = model.train()(tokens)[0], model(tokens)[0]
    assert not torch.equal(first, second)
    assert torch.equal(model.eval()(tokens)[0], model(tokens)[0])


def test_a_dropout_site_that_a_model_lacks_is_left_out_with_a_note():
    words = ("data=sample", "model=lstm", "recipe.attention_dropout=0.5", "recipe.head_dropout=0.25")
    model = hrm_bench.build(compose(*words))
    assert model.notes == ["recipe.attention_dropout=0.5 is left out: model=lstm has no such dropout"]
    assert model.head.dropout.rate == 0.25


def test_characters_that_are_read_are_replaced_at_the_rate_and_those_to_predict_are_not(tmp_path, monkeypatch):
    seen = windows_trained(monkeypatch)
    _, watch = watched(quick("recipe.character_dropout=0.2"), tmp_path, monkeypatch)
    del seen[len(watch.read) :]  # what the audit trains on
    tokens, targets = (torch.cat([part[i].flatten() for part in seen]) for i in (0, 1))
    read, wanted = (torch.cat([part[i].flatten() for part in watch.read]) for i in (0, 1))
    changed = tokens != read
    assert float(changed.float().mean()) == pytest.approx(0.2 * 96 / 97, abs=0.02)
    assert len(tokens[changed].unique()) == 97
    assert torch.equal(targets, wanted)


def test_the_learning_rate_rises_in_a_line_and_falls_by_half_a_cosine(tmp_path, monkeypatch):
    words = ("recipe.warmup=0.25", "recipe.final_learning_rate=0.1", "recipe.learning_rate=0.002")
    _, watch = watched(quick(*FEW, *words), tmp_path, monkeypatch)
    assert len(watch.rates) == 12
    for batch, (rate,) in enumerate(watch.rates, start=1):
        fallen = (batch / 12 - 0.25) / 0.75
        expected = batch / 3 if batch < 3 else 0.1 + 0.9 * (1 + math.cos(math.pi * fallen)) / 2
        assert rate == pytest.approx(0.002 * expected)


def test_without_a_course_the_learning_rate_is_what_was_asked_for(tmp_path, monkeypatch):
    _, watch = watched(quick(*FEW), tmp_path, monkeypatch)
    assert {rate for (rate,) in watch.rates} == {0.001}


def test_decayed_matrices_spare_norms_gates_and_biases():
    model = small("model=infini_hrm", "recipe.decayed=matrices", "recipe.weight_decay=0.5")
    (optimizer,) = model.objective.optimizers(model)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    named = {name: decay.pop(id(parameter)) for name, parameter in model.named_parameters()}
    assert not decay
    assert {name for name, value in named.items() if not value} == {
        name for name in named if name.endswith("norm.weight") or name.endswith("gate")
    }
    assert set(named.values()) == {0.0, 0.5}
    (whole,) = small("model=infini_hrm").objective.optimizers(small("model=infini_hrm"))
    assert [group["weight_decay"] for group in whole.param_groups] == [0.01]


@pytest.mark.parametrize("model", ["infini_hrm", "hrm_memory"])
def test_gates_can_have_a_rate_of_their_own_which_falls_like_the_others_and_no_decay(model):
    words = ("recipe.gate_learning_rate=0.03", "recipe.learning_rate=0.002", "recipe.final_learning_rate=0.5")
    built = small(f"model={model}", *words, "recipe.weight_decay=0.5")
    (optimizer,) = built.objective.optimizers(built)
    built.objective.schedule([optimizer], 1.0)
    settings = {
        id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]
    }
    for name, parameter in built.named_parameters():
        assert settings.pop(id(parameter)) == pytest.approx((0.015, 0) if name.endswith("gate") else (0.001, 0.5)), name
    assert not settings


def test_a_model_without_a_memory_is_the_same_cell_whatever_the_rate_of_gates():
    for model, same in (("hrm", True), ("infini_hrm", False)):
        cfgs = [compose("data=sample", f"model={model}", *words) for words in ((), ("recipe.gate_learning_rate=0.1",))]
        assert (identity(cfgs[0], "") == identity(cfgs[1], "")) is same


def test_the_best_epochs_weights_are_the_moving_average_and_training_goes_on_from_the_weights(tmp_path, monkeypatch):
    words = ("recipe.patience=null", "recipe.learning_rate=0.01")
    cfg, plain = quick(*FEW, *words, "recipe.averaging=0.7"), quick(*FEW, *words)
    record, watch = watched(cfg, tmp_path / "averaged", monkeypatch)
    _, unaveraged = watched(plain, tmp_path / "plain", monkeypatch)
    for mine, theirs in zip(watch.weights, unaveraged.weights, strict=True):
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    average = dict(watch.weights[0])
    for now in watch.weights[1 : 4 * record["best_epoch"]]:
        average = {name: 0.7 * average[name] + 0.3 * value for name, value in now.items()}
    kept = weights(cell_folder(cfg, tmp_path / "averaged"))
    for name, value in average.items():
        torch.testing.assert_close(kept[name], value, atol=1e-6, rtol=1e-5)
    assert record["validation"]["nll"] == pytest.approx(
        record["history"][record["best_epoch"] - 1]["validation_nll"], abs=1e-6
    )


def test_random_offsets_are_a_function_of_seed_and_epoch_and_reach_every_place():
    def offset(epoch, seed=3, num_offsets=8):
        batches = TrainingBatches(10, batch_size=4, order="shuffled", seed=seed, num_offsets=num_offsets)
        batches.set_epoch(epoch)
        assert batches.offset == batches.offset
        return batches.offset

    assert {offset(epoch) for epoch in range(100)} == set(range(8))
    assert [offset(epoch) for epoch in range(20)] != [offset(epoch, seed=4) for epoch in range(20)]
    assert {offset(epoch, num_offsets=1) for epoch in range(9)} == {0}


def test_an_epochs_windows_follow_each_other_from_its_offset_on(tmp_path, monkeypatch):
    cfg = quick(*FEW, "recipe.offsets=random", "data.order=contiguous")
    data = load_windows(cfg)
    _, watch = watched(cfg, tmp_path, monkeypatch)
    text = data.train.indices
    per_epoch = len(data.batches)
    for epoch in range(3):
        data.batches.set_epoch(epoch)
        read = sum(len(tokens) for tokens, _ in watch.read[epoch * per_epoch : (epoch + 1) * per_epoch])
        assert read == data.batches.num_samples == (420 - 8) // 8
        first, (tokens, targets) = data.batches.offset, watch.read[epoch * per_epoch]
        assert torch.equal(tokens[0], text[first : first + 8].long())
        assert torch.equal(targets[0], text[first + 1 : first + 9].long())


def test_a_text_that_is_too_short_for_random_offsets_is_told():
    with pytest.raises(UsageError, match=r"recipe\.offsets=random: the training text has only 15 characters"):
        load_windows(quick("data.train_chars=15", "recipe.offsets=random"))


def test_a_budget_ends_training_with_the_epoch_in_which_it_is_used_up(tmp_path):
    cfg = quick("recipe.budget=4000", "recipe.max_epochs=50", "recipe.patience=null")
    assert load_windows(cfg).characters_per_epoch == 1992
    record = run_cell(cfg, tmp_path)
    assert len(record["history"]) == 3
    assert num_epochs(quick("recipe.budget=4000", "recipe.max_epochs=2"), load_windows(cfg)) == 2


def test_without_patience_training_goes_to_its_end(tmp_path):
    record = run_cell(quick("recipe.learning_rate=0", "recipe.max_epochs=6", "recipe.patience=null"), tmp_path)
    assert len(record["history"]) == 6


def test_options_that_are_off_are_no_part_of_an_identity():
    published = identity(compose("data=sample"), "text")
    assert published == "d80930b98513"
    assert identity(compose("data=sample", "recipe.averaging=0"), "text") == published
    assert identity(compose("data=sample", "recipe.averaging=0.9"), "text") != published


@pytest.mark.parametrize("name", ["hrm", "lct_2layer", "lstm"])
def test_an_embedding_is_drawn_as_before_it_had_a_dropout(name):
    model = small(f"model={name}")
    plain = nn.Embedding(97, model.embedding.embedding_dim)
    plain.load_state_dict(model.embedding.state_dict())
    tokens = torch.arange(97)[None]
    assert torch.equal(plain(tokens), model.embedding.eval()(tokens))


def test_a_recipes_gradient_depth_is_that_of_the_models_that_have_one():
    assert small("model=infini_hrm", "recipe.gradient_depth=2").config.gradient_depth == 2
    assert small("model=infini_hrm").config.gradient_depth == 1
    small("model=transformer", "recipe.gradient_depth=2")
    with pytest.raises(
        UsageError, match=r"recipe\.gradient_depth=3: a segment has .* = 2 steps; try recipe\.gradient_depth=2"
    ):
        compose("data=sample", "recipe.gradient_depth=3")
