"""The plots of the page: what they draw, and how they are written."""

import re
import xml.etree.ElementTree

import pytest
from made_up import record, sweep
from matplotlib.colors import to_hex

from hrm_bench import drawing
from hrm_bench.drawing import Line
from hrm_bench.report import plots, write
from hrm_bench.report.frame import Sweep


def study(records):
    (only,) = Sweep.of(records).studies
    return only


def figure(drawn):
    """The figure of the only plot."""
    (plot,) = drawn.plots
    return plot.figure


def lines(figure):
    """The lines of a figure's panel by their name in the legend."""
    return {line.get_label(): line for line in figure.axes[0].get_lines() if not line.get_label().startswith("_")}


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def matrix():
    return [
        each
        for order in ("shuffled", "contiguous")
        for windows in (1, 4)
        for each in sweep(
            experiment="memory_matrix", seeds=(42,), extra=(f"data.order={order}", f"data.windows_per_sample={windows}")
        )
    ]


def test_few_variants_share_a_panel_and_many_stand_in_panels_of_one_setting():
    (panel,) = plots.panels(study(sweep()).variants)
    assert list(panel.variants) == ["hrm", "infini_hrm reset", "infini_hrm carry"]
    many = plots.panels(study([*matrix(), *map(renamed, matrix())]).variants)
    assert all(len(each.variants) <= plots.MOST_LINES for each in many)
    assert sum(len(each.variants) for each in many) == 20
    titled = {each.title: list(each.variants) for each in many}
    models = ["hrm", "infini_hrm reset", "infini_hrm carry", "other reset", "other carry"]
    assert titled["data.order=contiguous data.windows_per_sample=4"] == models


def test_variants_stand_in_panels_of_one_model_if_those_are_fewer():
    made = [record("model=hrm", f"data.train_chars={length}") for length in (1_000, 2_000, 4_000, 8_000)]
    made += [record("model=lstm", f"data.train_chars={length}") for length in (1_000, 2_000, 4_000, 8_000)]
    assert [each.title for each in plots.panels(study(made).variants)] == ["hrm", "lstm"]


def renamed(made):
    if made["model"] != "infini_hrm":
        return made
    return made | {"model": "other", "config": made["config"] | {"model": {**made["config"]["model"], "name": "other"}}}


def test_a_learning_curve_is_the_best_so_far_and_a_seed_that_stopped_keeps_it():
    short, long = record("model=hrm", seed=42), record("model=hrm", seed=43)
    for made, course in ((short, [20.0, 10.0, 14.0]), (long, [30.0, 16.0, 18.0, 12.0, 13.0])):
        made["history"] = [
            {"epoch": number, "validation_perplexity": value} for number, value in enumerate(course, start=1)
        ]
    drawn = figure(plots.learning(study([short, long])))
    assert list(lines(drawn)["hrm"].get_ydata()) == pytest.approx([25.0, 13.0, 13.0, 11.0, 11.0])
    assert list(lines(drawn)["hrm"].get_xdata()) == [1, 2, 3, 4, 5]
    band = drawn.axes[0].collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(25.0 + 50**0.5)
    assert drawn.axes[0].get_yscale() == "log"


def test_n_gram_baselines_are_named_lines_and_published_figures_are_marks():
    drawn = figure(plots.learning(study(sweep())))
    assert texts(drawn) == ["unigram model 23.0", "n-gram model 7.6"]
    marks = [line for line in drawn.axes[0].get_lines() if line.get_marker() == "D" and len(line.get_xdata()) == 1]
    assert sorted(line.get_ydata()[0] for line in marks) == [11.53, 12.03, 12.10]
    assert "published" not in lines(figure(plots.learning(study(sweep(experiment="custom")))))


def test_baselines_that_lie_close_have_one_text_and_a_line_each():
    made = [record("model=hrm", seed=seed) for seed in (1, 2, 3)]
    for each, (validation, length) in zip(made, ((23.0, 20_000), (23.3, 30_000), (18.0, 40_000)), strict=True):
        each["config"]["data"]["train_chars"] = length
        each["floors"] = {
            **each["floors"],
            "validation": {**each["floors"]["validation"], "unigram": {"full": validation}},
        }
    drawn = figure(plots.learning(study(made)))
    assert texts(drawn) == ["unigram model 23.3", "", "unigram model 18.0", "n-gram model 7.6"]
    flat = [line.get_ydata()[0] for line in drawn.axes[0].get_lines() if len(set(line.get_ydata())) == 1]
    assert {23.0, 23.3, 18.0} <= set(flat)


def test_lines_differ_in_dashes_and_in_mark_and_not_in_colour_alone():
    looks = [look for look, _ in zip(drawing.line_styles(), range(plots.MOST_LINES), strict=False)]
    for part in ("color", "linestyle", "marker"):
        assert len({str(look[part]) for look in looks}) == plots.MOST_LINES


def test_a_variant_has_the_same_look_in_every_plot():
    drawn = lines(figure(plots.learning(study(sweep())))), lines(figure(plots.gate(study(sweep()))))
    assert "hrm" not in drawn[1]
    for name in ("infini_hrm reset", "infini_hrm carry"):
        assert len({to_hex(each[name].get_color()) for each in drawn}) == 1


def test_bits_are_taken_together_in_ranges_that_double():
    made = record("model=hrm")
    made["bits_by_position"]["validation"] = [float(place) for place in range(64)]
    drawn = figure(plots.position(study([made])))
    assert list(lines(drawn)["hrm"].get_ydata()) == [0.0, 1.0, 2.5, 5.5, 11.5, 23.5, 47.5]
    assert [label.get_text() for label in drawn.axes[0].get_xticklabels()][-2:] == ["17–32", "33–64"]


def test_there_is_no_plot_of_what_no_record_has():
    bare = record("model=hrm")
    del bare["bits_by_position"]
    for plot in (plots.position, plots.gate, plots.norm, plots.differences, plots.scaling):
        assert plot(study([bare])) is None


def test_differences_are_in_percent_of_the_baseline_with_the_published_one_beside():
    reset, carry = plots.difference_lines(study(sweep()))
    assert reset.label == "infini_hrm reset"
    assert reset.estimate == pytest.approx(100 * 0.3095 / 11.095, rel=0.01)
    assert reset.low < reset.estimate < reset.high
    assert reset.published == pytest.approx(100 * (11.53 / 12.10 - 1))
    assert carry.high < 10  # a seed on the plateau is not in it
    drawn = drawing.forest([reset, carry], "%")
    assert any(f"{reset.estimate:+.1f} % [{reset.low:+.1f}" in text for text in texts(drawn))


def test_a_difference_that_would_squeeze_the_others_makes_the_axis_logarithmic():
    small = [Line(f"part {number}", number / 2, number / 2 - 0.2, number / 2 + 0.2, None) for number in range(1, 7)]
    large = Line("the schedule", 180.0, 150.0, 210.0, None)
    assert drawing.forests([], "%") == []
    ((_, linear),) = drawing.forests(small, "%")
    assert linear.axes[0].get_xscale() == "linear"
    drawn = drawing.forests([*small, large, *small], "%")
    assert [each.axes[0].get_xscale() for _, each in drawn] == ["symlog"] * 2  # one scale for both
    assert all("then logarithmic" in each.axes[0].get_xlabel() for _, each in drawn)


def test_the_parts_of_a_forest_plot_have_one_scale():
    near, far = (Line(f"at {place}", place, place - 1, place + 1, None) for place in (1.0, 9.0))
    figures = [drawing.forest([line], "%") for line in (near, far)]
    ends = [limit for each in figures for limit in each.axes[0].get_xlim()]
    drawing.share_scale(figures, "x")
    assert [each.axes[0].get_xlim() for each in figures] == [(min(ends), max(ends))] * 2


def test_few_seeds_have_no_interval_and_are_drawn_all_the_same():
    (reset, _) = plots.difference_lines(study(sweep(seeds=(42, 43))))
    assert (reset.low, reset.high) == (None, None)
    assert texts(drawing.forest([reset], "%"))[1] == f"{reset.estimate:+.1f} %"


def test_plots_side_by_side_have_one_scale():
    drawn = plots.learning(study([*matrix(), *map(renamed, matrix())])).plots
    assert len(drawn) > 1
    assert len({plot.figure.axes[0].get_ylim() for plot in drawn}) == 1


def test_a_plot_is_a_file_on_white_and_a_part_of_a_page_in_the_page_s_ink():
    (learning,), (again,) = (plots.learning(study(sweep())).plots for _ in range(2))
    assert learning == again
    assert "background: white" in learning.standalone()
    xml.etree.ElementTree.fromstring(learning.standalone())
    inline = learning.inline()
    xml.etree.ElementTree.fromstring(inline)
    assert inline.startswith('<svg role="img" aria-label="Learning curves: hrm, infini_hrm reset')
    assert drawing.INK not in inline
    assert "currentColor" in inline
    assert "<text" in inline
    names = re.findall(r'\bid="([^"]+)"', inline)
    assert names
    assert all(name.startswith(f"{learning.name}-") for name in names)
    referred = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', inline)
    assert {first or second for first, second in referred} <= set(names)


def test_no_two_plots_of_a_page_have_the_same_name_or_ids():
    sweeps = [Sweep.of(sweep(), "a b"), Sweep.of(sweep(), "a-b"), Sweep.of(matrix(), "a b")]
    blocks = [
        block for each in sweeps for section in write.studies(each) for _, some in section.parts for block in some
    ]
    made = [plot for block in blocks if isinstance(block, plots.Plots) for plot in block.plots]
    assert len(made) > 8
    assert len({plot.name for plot in made}) == len(made)
    ids = [name for plot in made for name in re.findall(r'\bid="([^"]+)"', plot.inline())]
    assert len(ids) == len(set(ids))
