"""Models at other scales, and what the report makes of texts of several lengths and of memories beside counts."""

import pytest
from made_up import record

import hrm_bench
from hrm_bench.config.compose import compose
from hrm_bench.config.identity import identity
from hrm_bench.report import plots, tables
from hrm_bench.report.frame import Sweep

LENGTHS = (20_000, 100_000, 500_000)


@pytest.mark.parametrize("model", ["hrm", "transformer", "infini_hrm", "lct_2layer", "trm", "lstm"])
def test_a_scale_widens_the_model_keeps_its_heads_width_and_divides_the_rate(model):
    plain, wide = (hrm_bench.build(compose("data=sample", f"model={model}", *words)) for words in ((), ("scale=2",)))
    shapes = {name: parameter.shape for name, parameter in plain.named_parameters()}
    for name, parameter in wide.named_parameters():
        assert all(mine in (its, 2 * its) for mine, its in zip(parameter.shape, shapes[name], strict=True)), name
    heads = [[getattr(each, "num_heads", None) for each in built.modules()] for built in (plain, wide)]
    assert heads[1] == [number and 2 * number for number in heads[0]]
    assert wide.objective.settings.learning_rate == plain.objective.settings.learning_rate / 2
    assert 3.5 < sum(p.numel() for p in wide.parameters()) / sum(p.numel() for p in plain.parameters()) < 4


def test_a_scale_is_part_of_a_cells_identity_and_one_is_not():
    plain = compose("data=sample")
    same = compose("data=sample", "scale=1")
    assert identity(plain, "") == identity(same, "") != identity(compose("data=sample", "scale=2"), "")


def grown(lengths=LENGTHS, seeds=(42, 43)):
    """HRM at two scales, on texts of these lengths, whose bits fall by a law of its own for each scale."""
    made = []
    for scale in (1, 2):
        for length in lengths:
            for seed in seeds:
                off = 0.002 * (seed - 42.5) + (0.001 if length == LENGTHS[1] else 0)
                bits = (5 - scale) * (length / 20_000) ** -0.1 * (1 + off)
                words = ("experiment=scaling", "model=hrm", f"scale={scale}", f"data.train_chars={length}")
                made.append(record(*words, perplexity=2**bits, seed=seed))
    return made


def study(records):
    (only,) = Sweep.of(records).studies
    return only


def test_each_model_at_each_size_has_its_power_law():
    found = tables.families(study(grown()))
    assert [each["label"] for each in found] == ["hrm scale=1", "hrm scale=2"]
    for each, scale in zip(found, (1, 2), strict=True):
        assert each["law"].exponent == pytest.approx(-0.1, abs=1e-3)
        assert each["law"].low < -0.1 < each["law"].high
        assert each["law"].at(100_000)[0] == pytest.approx((5 - scale) * 5**-0.1, rel=1e-3)
        assert sorted(each["lengths"]) == sorted(LENGTHS * 2)
    table = tables.scaling(study(grown()))
    assert table.data["change with a text ten times as long"][0].startswith("-20.6 % [")


def test_the_plot_of_a_scaling_experiment_has_its_lengths_and_its_models():
    (plot,) = plots.scaling(study(grown())).plots
    for word in ("20k", "100k", "500k", "hrm scale=2", "characters of training text"):
        assert word in plot.svg


def test_many_settings_of_a_model_without_memory_share_panels():
    assert len(plots.learning(study(grown(lengths=(*LENGTHS, 1_000_000)))).plots) == 2


def test_two_lengths_are_no_curve():
    assert not tables.families(study(grown(lengths=LENGTHS[:2])))
    assert tables.scaling(study(grown(lengths=LENGTHS[:2]))) is None
    assert plots.scaling(study(grown(lengths=LENGTHS[:2]))) is None


def remembering():
    """Infini-HRM by both rules: the linear memory gains a tenth, the other loses one."""
    made = []
    for seed in range(42, 47):
        for words, perplexity in (
            (("memory=none",), 10.0),
            (("memory=carry",), 9.0),
            (("memory=carry", "memory.rule=delta"), 11.0),
        ):
            words = ("experiment=memory_chance", "data.train_chars=20000", "model=infini_hrm", *words)
            made.append(record(*words, perplexity=perplexity + 0.01 * seed, seed=seed, memory=words[3][7:]))
    return made


def test_what_a_carried_memory_gains_stands_beside_what_updated_n_grams_gain():
    found = tables.against_ngrams(study(remembering())).data
    assert [gain.split()[0] for gain in found["carried memory, validation"]] == ["+1.000", "-1.000"]  # delta, linear
    assert set(found["updated n-grams, validation"]) == {f"-1.000 ({-100 / 7.6:+.2f} %)"}


def test_without_a_control_that_has_no_memory_nothing_is_said_of_its_gain():
    assert tables.against_ngrams(study([each for each in remembering() if each["memory"] != "none"])) is None
