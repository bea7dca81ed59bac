"""Claims that are decided in rounds of seeds: when each stops, what it has run, and that nothing else changes it."""

import itertools
import json
from dataclasses import replace

import made_up
import numpy
import pytest

from hrm_bench import claims, intervals
from hrm_bench.records import papers
from hrm_bench.report import summaries
from hrm_bench.sweeps import decide
from hrm_bench.sweeps.decide import Decision

KEPT = (
    "HRM reaches",
    "Without a causal",
    "Infini-HRM with a memory that is carried",
    "HRM+Memory with a memory that is re",
)
WHOLE = next(paper for paper in papers.PAPERS if paper.title.startswith("Two experiment reports"))
PAPER = replace(
    WHOLE,
    claims=[
        replace(claim, experiments=dict([*claim.experiments.items()][:1]))
        for claim in WHOLE.claims
        if claim.claim.startswith(KEPT)
    ],
)
MEANS = {"hrm": (11.31, 0.1), "infini_hrm": (11.25, 0.15), "hrm_memory": (11.2, 0.1)}


class Runs:
    """Writes made-up records in place of training; keeps the commands and the cells."""

    def __init__(self, folder, ended=0):
        self.folder, self.ended, self.commands, self.made = folder, ended, [], []

    def __call__(self, experiment, words):
        self.commands.append((experiment, list(words)))
        given = {word.split("=")[0]: word.split("=")[1].split(",") for word in words}
        memories = given.get("memory", ["reset"])
        for model, memory, seed in itertools.product(given.get("model", ["hrm"]), memories, map(int, given["seed"])):
            mean, sd = MEANS[model]
            draw = numpy.random.default_rng([seed, *model.encode(), *memory.encode()])
            record = made_up.record(
                f"experiment={experiment}",
                f"model={model}",
                f"memory={memory}",
                seed=seed,
                perplexity=mean + sd * draw.normal(),
            )
            folder = self.folder / experiment / f"{model}-{record['identity']}"
            if not folder.exists():
                self.made.append((experiment, model, memory, seed))
                folder.mkdir(parents=True)
                (folder / "record.json").write_text(json.dumps(record))
        return self.ended


def decided(folder, most=16, **more):
    runs, after = Runs(folder), []
    decision = Decision(PAPER, folder, "published", most=most)
    status = decision.rounds(runs, report=after.append, **more)
    return decision, runs, after, status


def state(decision):
    return {
        number: (look.seeds, getattr(look.finding, "verdict", None), getattr(look.finding, "low", None))
        for number, look in decision.last.items()
    }


def test_looks_double_up_to_the_most_seeds_and_share_the_five_percent():
    assert decide.looks(64) == [4, 8, 16, 32, 64]
    assert decide.looks(24) == [4, 8, 16, 24]
    assert decide.looks(4) == [4]
    assert decide.confidence(64) == pytest.approx(0.99)
    assert decide.confidence(4) == intervals.CONFIDENCE


def test_a_claim_stops_at_the_look_that_decides_it_and_its_cells_run_no_more(tmp_path):
    decision, runs, after, status = decided(tmp_path)
    assert (after, status) == ([4, 8, 16], 0)
    verdicts = {
        (decision.questions[n].claim.claim, decision.questions[n].experiment): look for n, look in decision.last.items()
    }
    level = verdicts["HRM reaches a validation perplexity of 11.31.", "hrm_vs_lct"]
    assert (level.seeds, level.finding.verdict) == (
        8,
        "reproduced",
    )  # four runs cannot show that most leave the plateau
    far = verdicts["HRM+Memory with a memory that is reset degrades HRM by 86.9 %.", "hrm_vs_infini"]
    assert (far.seeds, far.finding.verdict) == (4, "contradicted")
    near = verdicts["Infini-HRM with a memory that is carried improves HRM by 0.6 %.", "hrm_vs_infini"]
    assert (near.seeds, near.finding.verdict) == (16, "undecided")
    assert max(seed for _, model, _, seed in runs.made if model == "hrm_memory") == 45
    assert max(seed for _, model, memory, seed in runs.made if (model, memory) == ("infini_hrm", "carry")) == 57
    assert len(runs.made) == len({*runs.made})


def test_the_intervals_of_a_look_are_those_of_its_own_seeds_at_the_shared_confidence(tmp_path):
    decision, *_ = decided(tmp_path)
    number = next(n for n, q in enumerate(decision.questions) if q.claim.claim.startswith("HRM reaches"))
    values = [r["validation"]["perplexity"] for r in decision.records("hrm_vs_lct", 8) if r["model"] == "hrm"]
    with intervals.at_confidence(decide.confidence(16)):
        expected = intervals.level(values)
    assert decision.last[number].finding.low == pytest.approx(expected.low)
    assert expected.low < intervals.level(values).low  # wider than that of a fixed number


def test_a_command_that_was_killed_at_any_moment_ends_as_if_it_had_not_been(tmp_path):
    whole, runs, *_ = decided(tmp_path / "whole")

    class Killed(Exception):
        pass

    assert len(runs.commands) >= 5
    for kill_at in (1, 3, len(runs.commands)):
        folder, some = tmp_path / f"killed{kill_at}", Runs(tmp_path / f"killed{kill_at}")

        def run(experiment, words, some=some, kill_at=kill_at):
            some(experiment, words)
            if len(some.commands) == kill_at:
                raise Killed
            return 0

        with pytest.raises(Killed):
            Decision(PAPER, folder, "published", most=16).rounds(run, report=lambda seeds: None)
        again, *_ = decided(folder)
        assert state(again) == state(whole)
    more, *_ = decided(tmp_path / "whole")  # with all records there, looks still use their own seeds
    assert state(more) == state(whole)


def test_a_budget_begins_no_cells_that_would_take_longer_and_takes_the_most_decidable_first(tmp_path):
    decision, runs, _, status = decided(tmp_path, minutes=0.5)
    assert status == 0
    assert len(runs.commands) > 0  # how long its first cells take is not known
    first = len(runs.made)
    decided_then = {n for n in decision.last if decision.last[n].is_decided}
    assert max(seed for *_, seed in runs.made) == 45  # no second round: each cell is said to take a minute and more
    again, more, *_ = decided(tmp_path, minutes=1e9)
    assert {n for n in again.last if again.last[n].is_decided} > decided_then
    assert len(more.made) > 0
    assert first == len({*runs.made})


def test_the_seconds_of_a_look_are_those_of_its_missing_cells_however_the_experiment_lists_them(tmp_path):
    decision, *_ = decided(tmp_path, most=4)
    decision.most = 8
    number = next(n for n, q in enumerate(decision.questions) if q.claim.claim.startswith("Infini-HRM"))
    assert decision.seconds([number], 4) == 0
    assert decision.seconds([number], 8) == 4 * 3 * 20.0  # hrm, and infini_hrm in two modes: 4 seeds more of 20 s
    decision.with_cases = {decision.questions[number].experiment: True}
    assert decision.seconds([number], 8) == 4 * 5 * 20.0  # and hrm_memory in two


def test_a_sweep_that_ends_badly_ends_the_command_and_a_failed_cell_does_not(tmp_path):
    bad = Runs(tmp_path / "bad", ended=2)
    assert Decision(PAPER, bad.folder, "published", most=8).rounds(bad, report=lambda seeds: None) == 2
    assert len(bad.commands) == 1
    failed = Runs(tmp_path / "failed", ended=1)
    decision = Decision(PAPER, failed.folder, "published", most=8)
    assert decision.rounds(failed, report=lambda seeds: None) == 1
    assert any(look.is_decided for look in decision.last.values())


def test_a_claim_that_the_cells_do_not_measure_is_asked_once_and_named(tmp_path):
    decision, runs, *_ = decided(tmp_path)
    number = next(n for n, q in enumerate(decision.questions) if q.experiment == "causal_mask")
    assert decision.last[number].finding is None
    assert "no cells of hrm model.causal=false" in decision.last[number].reason
    assert sum(experiment == "causal_mask" for experiment, _ in runs.commands) == 1


def test_the_table_of_a_round_has_every_claim_with_its_interval_bounds_and_next_look(tmp_path):
    decision, *_ = decided(tmp_path, most=8)
    shown = summaries.rounds(decision.rows(), 8)
    rows = {(row.claim, row.experiment): row for row in shown.data.itertuples(index=False)}
    assert len(rows) == len(decision.questions)
    done = rows["HRM reaches a validation perplexity of 11.31.", "hrm_vs_lct"]
    assert done.verdict == "✓ reproduced"
    assert "[" in done.estimate
    assert "Each look, after 4, 8 seeds, has intervals of 97.5 %" in summaries.verdicts(decision.judged()).caption


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["decide=maybe"], "decide=maybe: must be true or false"),
        (["most=8"], "most: needs decide=true"),
        (["decide=true", "most=2"], "most=2: must be at least 4; try most=64"),
        (["decide=true", "seed=1"], "seed=1: decide=true chooses it; leave it out"),
        (["decide=true", "minutes=-1"], "minutes=-1.0: must be at least 0; try minutes=inf"),
    ],
)
def test_words_that_rounds_do_not_take_are_refused_in_one_line(words, line):
    with pytest.raises(claims.UsageError) as caught:
        claims.main(["papers/hrm_reports.yaml", *words])
    assert [*caught.value.faults] == [line]
