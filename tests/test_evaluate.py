"""Rescoring of trained cells, against loops over single characters."""

import json
import math

import pytest
import torch
from conftest import compose, quick

from hrm_bench import evaluate
from hrm_bench.cells import reopen
from hrm_bench.cells.reopen import load_cell
from hrm_bench.cells.run import cell_folder, run_cell
from hrm_bench.data.kneser_ney import Counts
from hrm_bench.errors import UsageError
from hrm_bench.evidence import halting, rescoring
from hrm_bench.records import store
from hrm_bench.records.extras import read_rescoring
from hrm_bench.report import __main__ as report
from hrm_bench.training.build import load_windows


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Two seeds of HRM, one of Infini-HRM that carries its memory, and one of a model that sees the future."""
    root = tmp_path_factory.mktemp("sweep")
    for words in (("seed=1",), ("seed=2",), ("model=infini_hrm", "memory=carry"), ("model.causal=false",)):
        run_cell(quick("recipe.max_epochs=1", *words), root)
    return root


@pytest.fixture(scope="module")
def asked(sweep):
    evaluate.main([str(sweep)])
    return {(each["variant"], each["split"]): each for each in read_rescoring(sweep)}


def test_what_is_scored_is_what_the_records_have(sweep, asked):
    assert {variant for variant, _ in asked} == {"hrm model.causal=True", "infini_hrm carry model.causal=True"}
    for record in store.read_all(sweep):
        if record["causal"]:
            label = "hrm model.causal=True" if record["model"] == "hrm" else "infini_hrm carry model.causal=True"
            for split in ("validation", "test"):
                found = asked[label, split]
                scored = dict(zip(found["seeds"], found["scored"], strict=True))[record["seed"]]
                assert scored == pytest.approx(record[split]["perplexity"], rel=1e-5)


def test_a_cell_in_bf16_is_rescored_as_it_was_scored(tmp_path):
    record = run_cell(
        quick("recipe.max_epochs=1", "recipe.learning_rate=0.02", "trainer.precision=bf16-mixed"), tmp_path
    )
    evaluate.main([str(tmp_path)])
    for found in read_rescoring(tmp_path):
        assert found["scored"][0] == pytest.approx(record[found["split"]]["perplexity"], rel=1e-5)


def test_a_sliding_window_gives_each_character_half_a_window_before_it(sweep, asked):
    cfg = quick("recipe.max_epochs=1", "seed=1")
    model, samples = load_cell(cell_folder(cfg, sweep)).eval(), load_windows(cfg).validation
    text, window = samples.indices.long(), model.window
    last, nlls = samples.num_characters - window, []
    with torch.no_grad():
        for place in range(samples.num_characters):
            start = 0 if place < window else min((place // (window // 2) - 1) * (window // 2), last)
            logits, _ = model(text[None, start : place + 1])
            nlls.append(-float(logits[0, -1].double().log_softmax(dim=-1)[text[place + 1]]))
            assert place < window or place - start >= window // 2
    assert asked["hrm model.causal=True", "validation"]["sliding"][0] == pytest.approx(
        math.exp(sum(nlls) / len(nlls)), rel=1e-5
    )
    assert asked["infini_hrm carry model.causal=True", "validation"]["sliding"] is None


def test_averaged_seeds_and_counts_are_means_of_probabilities(sweep, asked):
    cfgs = [quick("recipe.max_epochs=1", f"seed={seed}") for seed in (1, 2)]
    data = load_windows(cfgs[0])
    samples, text = data.validation, data.validation.indices.long()
    models = [load_cell(cell_folder(cfg, sweep)).eval() for cfg in cfgs]
    counts, train = Counts(), bytes(data.train.indices.tolist())
    for position in range(len(train)):
        counts.add(train, position)
    together, with_counts = [], []
    with torch.no_grad():
        for start in range(0, samples.num_characters, samples.window):
            window = text[start : start + samples.window + 1]
            both = [model(window[None, :-1])[0][0].double().softmax(dim=-1) for model in models]
            for place, target in enumerate(window[1:].tolist()):
                ours = [float(each[place, target]) for each in both]
                counted = counts.probabilities(bytes(window.tolist()), place + 1)[-1]
                together.append(math.log(sum(ours) / 2))
                with_counts.append(math.log((ours[0] + counted) / 2))
    found = asked["hrm model.causal=True", "validation"]
    assert found["averaged_seeds"] == pytest.approx(math.exp(-sum(together) / len(together)), rel=1e-5)
    assert found["with_counts"][0] == pytest.approx(math.exp(-sum(with_counts) / len(with_counts)), rel=1e-5)


def test_the_curve_over_segments_passes_through_what_was_scored(asked):
    found = asked["hrm model.causal=True", "test"]
    assert [*found["segments"]] == [str(number) for number in rescoring.SEGMENTS]
    assert found["segments"]["2"] == pytest.approx(found["scored"])
    assert found["segments"]["1"] != found["segments"]["16"]


def test_halting_is_asked_of_models_with_a_q_head_and_no_memory(asked):
    for (variant, _), found in asked.items():
        assert bool(found["halting"]) == variant.startswith("hrm ")
    first, *_, last = asked["hrm model.causal=True", "validation"]["halting"]
    found = asked["hrm model.causal=True", "validation"]["segments"]
    assert first["perplexity"] == pytest.approx(found["1"])
    assert last["perplexity"] == pytest.approx(found["4"])


def test_the_answers_are_kept_as_json_and_as_a_table(sweep, asked):
    assert len(json.loads((sweep / "evaluation.json").read_bytes())["answers"]) == len(asked) == 4
    text = (sweep / "evaluation.md").read_text()
    assert text.count("hrm model.causal=True | validation") == 2 + len(halting.THRESHOLDS)
    assert "16 segments" in text


@pytest.mark.parametrize("words", [[], ["one", "two"], ["nowhere"]])
def test_what_is_no_sweep_is_refused(words):
    with pytest.raises(
        UsageError, match=r"type python -m hrm_bench\.evaluate FOLDER|no (finished causal cells|such folder)"
    ):
        evaluate.main(words)


def test_another_text_than_the_cells_had_is_refused(tmp_path):
    text = tmp_path / "mine.txt"
    text.write_text("Each line of this text is a line. " * 200)
    words = ("model=transformer", "recipe.max_epochs=1", "logger=none")
    run_cell(compose("data=text_file", f"data.path={text}", *words), tmp_path / "cells")
    text.write_text(text.read_text()[:6000])
    with pytest.raises(UsageError, match=r"mine\.txt is not the text that its cells were trained on"):
        evaluate.main([str(tmp_path / "cells")])


def test_a_text_that_is_too_long_to_rescore_is_refused(sweep, monkeypatch):
    monkeypatch.setattr(rescoring, "MOST_SCORED", 300)
    with pytest.raises(UsageError, match=r"the validation text has 50[01] characters .* data\.validation_chars=300"):
        evaluate.main([str(sweep)])


def test_counts_that_would_take_too_long_are_left_out(tmp_path, monkeypatch):
    words = ("model=transformer", "data.train_chars=2000", "recipe.max_epochs=1", "logger=none")
    run_cell(compose("data=sample", *words), tmp_path)
    monkeypatch.setattr(reopen, "MOST_COUNTED", 1000)
    evaluate.main([str(tmp_path)])
    assert all(each["with_counts"] is None and each["sliding"] for each in read_rescoring(tmp_path))
    assert "with n-grams |" not in (tmp_path / "evaluation.md").read_text()


def test_a_model_of_one_segment_has_no_curve(tmp_path):
    words = ("model=transformer", "data.train_chars=2000", "recipe.max_epochs=1", "logger=none")
    run_cell(compose("data=sample", *words), tmp_path)
    evaluate.main([str(tmp_path)])
    assert all(each["segments"] == {} and each["halting"] == [] for each in read_rescoring(tmp_path))


def test_the_page_of_a_sweep_has_its_answers_and_their_curve(sweep, asked):
    report.main([str(sweep)])
    text = (sweep / "report.html").read_text()
    assert "Other scores" in text
    assert "segments at evaluation" in text
    names = sorted(path.name for path in (sweep / "plots").glob("*.svg"))
    assert len([name for name in names if "segments" in name]) == 1, names
    assert len([name for name in names if "halting" in name]) == 1, names
