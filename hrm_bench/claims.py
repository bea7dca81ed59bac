"""``python -m hrm_bench.claims FILE``: train what the claims of a file need, and give each its verdict."""

import math
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hrm_bench import cli
from hrm_bench.errors import UsageError, allowed

if TYPE_CHECKING:
    from hrm_bench.records.papers import Paper
    from hrm_bench.report.claims import Judged

ALL = Path("multirun")
HELP = cli.Help(
    name="claims",
    words="FILE [--config-dir FOLDER] [key=value ...]",
    arguments={
        "FILE": "claims, as docs/claims.md describes; papers/hrm_reports.yaml has those of the two reports",
        "FOLDER": "configs of your own, beside conf/",
        "key=value": "given to every sweep, as in launcher=joblib; plan=true trains nothing and shows what is "
        "missing, and about how long that takes",
        "decide=true": "seeds come in rounds, and a claim stops when it is decided",
        "most=64": "seeds of a claim, with decide=true",
        "minutes=30": "begin nothing that would take longer, with decide=true",
    },
    example="papers/hrm_reports.yaml launcher=joblib",
)
ROUNDS = {
    "decide": cli.Key("", default="false"),
    "most": cli.Key("", int, 64, at_least=4),
    "minutes": cli.Key("", float, math.inf, at_least=0),
}
CHOSEN = ("seed", "model", "memory")  # by decide=true
OWN = ("hydra.sweep.dir", "experiment", "experiment.name")  # keys by which a sweep would not be found again


def main(words: list[str]) -> int:
    """Run the sweep of each experiment that the claims name, then print and write verdicts; or only plan that.

    Returns 1 if a cell failed; the verdicts are those of the others.
    """
    files = [word for word in words[:1] if not word.startswith("-") and "=" not in word]
    if not files:
        raise HELP.misuse(words)
    file, rest = Path(files[0]), words[1:]
    of_rounds = cli.parse([word for word in rest if word.partition("=")[0] in ROUNDS], ROUNDS, _faults)
    rest = [word for word in rest if word.partition("=")[0] not in ROUNDS]
    if fixed := [word for word in rest if word.lstrip("+~").partition("=")[0] in OWN]:
        raise UsageError(f"{fixed[0]}: the claims name the experiments; leave it out")

    from hrm_bench.records import papers

    paper = papers.read_file(file)
    if of_rounds["decide"] == "true":
        return _decide(paper, file, rest, of_rounds["most"], of_rounds["minutes"])
    experiments = _experiments(paper, rest)
    if "plan=true" in map(str.lower, rest):
        return _plan(experiments, rest)
    status = 0
    for experiment in experiments:
        ended = _run(experiment, rest)
        if ended not in (0, 1):
            return ended
        status = max(status, ended)
    _conclude(paper, experiments, file)
    return status


def _experiments(paper: "Paper", words: Sequence[str]) -> list[str]:
    """Return the experiments of the claims; under another recipe, those that have every claim, if there are any."""
    from hrm_bench.records.facts import PUBLISHED

    recipes = [word.partition("=")[2] for word in words if word.startswith("recipe=")]
    is_other = any(recipe != PUBLISHED for recipe in recipes)
    return [*paper.everywhere] if is_other and paper.everywhere else paper.experiments


def _plan(experiments: Sequence[str], words: Sequence[str]) -> int:
    """Show the plan of each experiment, and what all of them take together; return the exit status."""
    from hrm_bench.sweeps import costs

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "costs.jsonl"
        file.touch()
        for experiment in experiments:
            if ended := _run(experiment, words, {costs.COST_FILE: str(file)}):
                return ended
        print(f"{costs.total(file)}.")
    return 0


def _conclude(paper: "Paper", experiments: Sequence[str], file: Path, judged: "Judged | None" = None) -> None:
    """Print the verdicts and write the page. Raises UsageError if no cell has finished.

    ``judged`` are the findings of rounds, which have shown their results; else all finished cells are judged.
    """
    from hrm_bench.records import store
    from hrm_bench.report import summaries, tables, write
    from hrm_bench.report.frame import Sweep

    sweeps = []
    for experiment in experiments:
        records = list(store.read_whole(ALL / experiment))
        if any(map(store.is_finished, records)):
            sweeps.append(Sweep.of(records, experiment, ALL / experiment))
    if not sweeps:
        raise UsageError(f"{file}: no cell of its experiments has finished; see above")
    report = write.Report.of(sweeps, papers=[paper])
    if judged is None:
        cli.show(*(tables.results(sweep.whole) for sweep in sweeps))
    else:
        report = report._replace(judged=judged)
    cli.show(summaries.verdicts(report.judged))
    if missing := summaries.missing(report.judged):
        cli.show(missing)
    folder = ALL / file.stem
    folder.mkdir(exist_ok=True)
    for path in write.write_together(report, [], folder):
        print(f"Written: {path}")


def _faults(values: Mapping[str, Any]) -> Iterator[str]:
    if values["decide"] not in ("true", "false"):
        yield f"decide={values['decide']}: must be true or false"
    elif values["decide"] == "false":
        yield from (f"{key}: needs decide=true" for key in ("most", "minutes") if values[key] != ROUNDS[key].default)


def _run(experiment: str, words: Sequence[str], environment: Mapping[str, str] | None = None) -> int:
    """Run the sweep of an experiment with more words and environment variables; return its exit status."""
    command = ["-m", "hrm_bench", "-m", f"experiment={experiment}", *words]
    print(f"{experiment}: python {shlex.join(command)}", flush=True)
    return subprocess.run([sys.executable, *command], check=False, env=os.environ | dict(environment or {})).returncode


def _with_cases(experiments: Sequence[str], words: Sequence[str]) -> list[str]:
    """Return the experiments that list their variants, in the configs of the package or of ``--config-dir``."""
    import yaml

    from hrm_bench.config.compose import config_dir
    from hrm_bench.config.words import conf_folder

    folders = [folder for folder in (config_dir(words)[0], conf_folder()) if folder]
    found = []
    for name in experiments:
        file = next((f for folder in folders if (f := folder / "experiment" / f"{name}.yaml").is_file()), None)
        content = yaml.safe_load(file.read_text(encoding="utf-8")) if file else None
        sweeper = ((content or {}).get("hydra") or {}).get("sweeper") or {}
        if sweeper.get("cases"):
            found.append(name)
    return found


def _decide(paper: "Paper", file: Path, rest: Sequence[str], most: int, minutes: float) -> int:
    """Run seeds in rounds until each claim is decided, then print and write the verdicts."""
    from hrm_bench.records.facts import PUBLISHED
    from hrm_bench.report import summaries
    from hrm_bench.sweeps.decide import Decision
    from hrm_bench.table import count

    if fixed := [word for word in rest if word.lstrip("+~").partition("=")[0] in CHOSEN]:
        raise UsageError(f"{fixed[0]}: decide=true chooses it; leave it out")
    recipes = [word.partition("=")[2] for word in rest if word.startswith("recipe=")]
    recipe = recipes[-1] if recipes else PUBLISHED
    decision = Decision(paper, ALL, recipe, most=most, with_cases=_with_cases(paper.experiments, rest))
    if "plan=true" in map(str.lower, rest):
        for experiment, words in decision.commands(range(len(decision.questions)), decision.looks[0]):
            if ended := _run(experiment, [*words, *rest]):
                return ended
        print(f"Claims are looked at after {allowed(map(str, decision.looks))} seeds; the above is the first round.")
        return 0
    status = decision.rounds(
        lambda experiment, words: _run(experiment, [*words, *rest]),
        minutes=None if math.isinf(minutes) else minutes,
        report=lambda seeds: cli.show(summaries.rounds(decision.rows(), seeds)),
    )
    if status not in (0, 1):
        return status
    _conclude(paper, paper.experiments, file, decision.judged())
    if still := decision.open:
        print(
            f"Not decided by {most} seeds or in this time: {len(still)} of {count(len(decision.questions), 'claim')}."
        )
    return status


if __name__ == "__main__":
    cli.run(main, HELP)
