"""The plots of the page: what they draw, and how they are written."""

import re
import xml.etree.ElementTree

import pytest
from matplotlib.colors import to_hex
from test_load import record, sweep

from hrm_bench.report import curves, drawing, forest, sections
from hrm_bench.report.variants import variants


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
    (panel,) = curves.panels(variants(sweep()))
    assert panel.labels == ["hrm", "infini_hrm reset", "infini_hrm carry"]
    many = curves.panels(variants([*matrix(), *map(renamed, matrix())]))
    assert all(len(each.variants) <= curves.MOST_LINES for each in many)
    assert sum(len(each.variants) for each in many) == 20
    titled = {each.title: each.labels for each in many}
    assert titled["other data.order=contiguous data.windows_per_sample=4"] == ["memory reset", "memory carry"]


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
    (panel,) = curves.panels(variants([short, long]))
    figure = curves.learning(panel)
    assert list(lines(figure)["hrm"].get_ydata()) == pytest.approx([25.0, 13.0, 13.0, 11.0, 11.0])
    assert list(lines(figure)["hrm"].get_xdata()) == [1, 2, 3, 4, 5]
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(25.0 + 50**0.5)
    assert figure.axes[0].get_yscale() == "log"


def test_floors_are_named_lines_and_published_figures_are_marks():
    (panel,) = curves.panels(variants(sweep()))
    figure = curves.learning(panel)
    assert texts(figure) == ["unigram counts 23.0", "n-gram counts 7.6"]
    marks = [line for line in figure.axes[0].get_lines() if line.get_marker() == "D" and len(line.get_xdata()) == 1]
    assert sorted(line.get_ydata()[0] for line in marks) == [11.53, 12.03, 12.10]
    (unpublished,) = curves.panels(variants(sweep(experiment="custom")))
    assert "published" not in lines(curves.learning(unpublished))


def test_floors_that_lie_close_have_one_text_and_a_line_each():
    made = [record("model=hrm", seed=seed) for seed in (1, 2, 3)]
    for each, (validation, length) in zip(made, ((23.0, 20_000), (23.3, 30_000), (18.0, 40_000)), strict=True):
        each["config"]["data"]["train_chars"] = length
        each["floors"] = {
            **each["floors"],
            "validation": {**each["floors"]["validation"], "unigram": {"full": validation}},
        }
    (panel,) = curves.panels(variants(made))
    figure = curves.learning(panel)
    assert texts(figure) == ["unigram counts 23.0 to 23.3", "", "unigram counts 18.0", "n-gram counts 7.6"]
    flat = [line.get_ydata()[0] for line in figure.axes[0].get_lines() if len(set(line.get_ydata())) == 1]
    assert {23.0, 23.3, 18.0} <= set(flat)


def test_lines_differ_in_dashes_and_in_mark_and_not_in_colour_alone():
    looks = [look for look, _ in zip(drawing.looks(), range(curves.MOST_LINES), strict=False)]
    for part in ("color", "linestyle", "marker"):
        assert len({str(look[part]) for look in looks}) == curves.MOST_LINES


def test_a_variant_has_the_same_look_in_every_plot():
    (panel,) = curves.panels(variants(sweep()))
    drawn = lines(curves.learning(panel)), lines(curves.course(panel, "memory_share", "share"))
    assert "hrm" not in drawn[1]
    for name in ("infini_hrm reset", "infini_hrm carry"):
        assert len({to_hex(each[name].get_color()) for each in drawn}) == 1


def test_bits_are_taken_together_in_ranges_that_double():
    made = record("model=hrm")
    made["bits_by_position"]["validation"] = [float(place) for place in range(64)]
    (panel,) = curves.panels(variants([made]))
    figure = curves.by_position(panel, "validation")
    assert list(lines(figure)["hrm"].get_ydata()) == [0.0, 1.0, 2.5, 5.5, 11.5, 23.5, 47.5]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()][-2:] == ["17–32", "33–64"]


def test_there_is_no_plot_of_what_no_record_has():
    bare = record("model=hrm")
    del bare["bits_by_position"]
    (panel,) = curves.panels(variants([bare]))
    assert curves.by_position(panel, "validation") is None
    assert curves.course(panel, "memory_share", "share") is None
    (section,) = sections.sections([bare])
    assert [each.name for each in section.plots] == ["custom-learning-1"]


def test_differences_are_in_percent_of_the_baseline_with_the_published_one_beside():
    reset, carry = forest.differences(variants(sweep()))
    assert reset.label == "infini_hrm reset"
    assert reset.estimate == pytest.approx(100 * 0.3095 / 11.095, rel=0.01)
    assert reset.low < reset.estimate < reset.high
    assert reset.published == pytest.approx(100 * (11.53 / 12.10 - 1))
    assert carry.high > 30
    figure = forest.draw([reset, carry], "%")
    assert any(f"{reset.estimate:+.1f} % [{reset.low:+.1f}" in text for text in texts(figure))


def test_a_difference_that_would_squeeze_the_others_makes_the_axis_logarithmic():
    small = [
        forest.Line(f"part {number}", number / 2, number / 2 - 0.2, number / 2 + 0.2, None) for number in range(1, 7)
    ]
    large = forest.Line("the schedule", 180.0, 150.0, 210.0, None)
    assert not forest.needs_logarithm(small)
    assert not forest.needs_logarithm([])
    assert forest.needs_logarithm([*small, large])
    drawn = sections.forest_plots([*small, large, *small], "differences", "Differences", "difference, %")
    assert len(drawn) == 2
    assert all("then logarithmic" in each.standalone() for each in drawn)  # one scale for both
    assert forest.draw([*small, large], "%", logarithmic=True).axes[0].get_xscale() == "symlog"


def test_the_parts_of_a_forest_plot_have_one_scale():
    near, far = (forest.Line(f"at {place}", place, place - 1, place + 1, None) for place in (1.0, 9.0))
    figures = [forest.draw([line], "%") for line in (near, far)]
    ends = [limit for figure in figures for limit in figure.axes[0].get_xlim()]
    drawing.share_scale(figures, "x")
    assert [figure.axes[0].get_xlim() for figure in figures] == [(min(ends), max(ends))] * 2


def test_few_seeds_have_no_interval_and_are_drawn_all_the_same():
    (reset, _) = forest.differences(variants(sweep(seeds=(42, 43))))
    assert (reset.low, reset.high) == (None, None)
    assert texts(forest.draw([reset], "%"))[1] == f"{reset.estimate:+.1f} %"


def test_plots_side_by_side_have_one_scale():
    plots = [curves.learning(panel) for panel in curves.panels(variants([*matrix(), *map(renamed, matrix())]))]
    before = {figure.axes[0].get_ylim() for figure in plots}
    drawing.share_scale(plots)
    assert len(before) > len({figure.axes[0].get_ylim() for figure in plots}) == 1


def test_a_plot_is_a_file_on_white_and_a_part_of_a_page_in_the_page_s_ink():
    (section,) = sections.sections(sweep(), "x")
    learning, again = section.plots[0], sections.sections(sweep(), "x")[0].plots[0]
    assert learning == again
    assert "background: white" in learning.standalone()
    assert drawing.INK in learning.standalone()
    inline = learning.inline()
    xml.etree.ElementTree.fromstring(inline)
    assert inline.startswith('<svg role="img" aria-label="Learning curves: hrm, infini_hrm reset')
    assert drawing.INK not in inline
    assert "var(--ink)" in inline
    assert "<text" in inline
    names = re.findall(r'\bid="([^"]+)"', inline)
    assert names
    assert all(name.startswith(f"{learning.name}-") for name in names)
    referred = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', inline)
    assert {first or second for first, second in referred} <= set(names)


def test_no_two_plots_of_a_page_have_the_same_name_or_ids():
    made = [*sections.sections(sweep(), "a b"), *sections.sections(sweep(), "a-b"), *sections.sections(matrix(), "a b")]
    names = [plot.name for section in made for plot in section.plots]
    assert len(names) == len(set(names))
    ids = [name for section in made for plot in section.plots for name in re.findall(r'\bid="([^"]+)"', plot.inline())]
    assert len(ids) == len(set(ids))
