"""``python -m hrm_bench.claims FILE``: train what the claims of a file need, and give each its verdict."""

import shlex
import subprocess
import sys
from pathlib import Path

from hrm_bench import cli
from hrm_bench.errors import UsageError

ALL = Path("multirun")
HELP = cli.Help(
    name="claims",
    words="FILE [--config-dir FOLDER] [key=value ...]",
    arguments={
        "FILE": "claims, as docs/claims.md describes; papers/hrm_reports.yaml has those of the two reports",
        "FOLDER": "configs of your own, beside conf/",
        "key=value": "given to every sweep, as in launcher=joblib; plan=true trains nothing and shows what is missing",
    },
    example="papers/hrm_reports.yaml launcher=joblib",
)
OWN = ("hydra.sweep.dir", "experiment", "experiment.name")  # keys by which a sweep would not be found again


def main(words: list[str]) -> int:
    """Run the sweep of each experiment that the claims name, then print and write verdicts.

    Returns 1 if a cell failed; the verdicts are those of the others.
    """
    files = [word for word in words[:1] if not word.startswith("-") and "=" not in word]
    if not files:
        raise HELP.misuse(words)
    file, rest = Path(files[0]), words[1:]
    if fixed := [word for word in rest if word.lstrip("+~").partition("=")[0] in OWN]:
        raise UsageError(f"{fixed[0]}: the claims name the experiments; leave it out")

    from hrm_bench.records import papers, store
    from hrm_bench.report import summaries, tables, write
    from hrm_bench.report.frame import Sweep

    paper = papers.read_file(file)
    status, sweeps = 0, []
    for experiment in paper.experiments:
        command = ["-m", "hrm_bench", "-m", f"experiment={experiment}", *rest]
        print(f"{experiment}: python {shlex.join(command)}", flush=True)
        ended = subprocess.run([sys.executable, *command], check=False).returncode
        if ended not in (0, 1):
            return ended
        status = max(status, ended)
        if any(map(store.is_finished, records := list(store.read_whole(ALL / experiment)))):
            sweeps.append(Sweep.of(records, experiment, ALL / experiment))
    if "plan=true" in rest:
        return 0
    if not sweeps:
        raise UsageError(f"{file}: no cell of its experiments has finished; see above")
    report = write.Report.of(sweeps, papers=[paper])
    cli.show(*(tables.results(sweep.whole) for sweep in sweeps), summaries.verdicts(report.judged))
    if missing := summaries.missing(report.judged):
        cli.show(missing)
    folder = ALL / file.stem
    folder.mkdir(exist_ok=True)
    for path in write.write_together(report, [], folder):
        print(f"Written: {path}")
    return status


if __name__ == "__main__":
    cli.run(main, HELP)
