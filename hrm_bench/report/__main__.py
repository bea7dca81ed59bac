"""``python -m hrm_bench.report [PATH ...]``: tables, plots and pages of sweeps again, from their records."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hrm_bench import cli
from hrm_bench.errors import UsageError, allowed
from hrm_bench.records import store
from hrm_bench.report import articles, summaries, tables, write
from hrm_bench.report.export import FORMATS, single
from hrm_bench.report.frame import Sweep

ALL = Path("multirun")
PATH = (
    "a sweep's folder or an archive (.jsonl); the report goes into the folder, or into one with the archive's name; "
    "several are also shown together, each against the first, in multirun/; default: all in multirun/"
)
KEYS = {
    "table": cli.Key(
        "print one table of the page, and write nothing; a wrong name lists them", default="", shown="NAME"
    ),
    "columns": cli.Key("of that table; one with a comma in double quotes; default: all", default="", shown="NAME,NAME"),
    "format": cli.Key("of that table: csv (default), latex (needs booktabs) or markdown", default="", shown="FORMAT"),
}
HELP = cli.Help(
    name="report",
    words="[PATH ...] [key=value ...]",
    arguments={"PATH": PATH, **cli.arguments(KEYS)},
    example="results/recipes.jsonl table=results format=latex",
)


def main(words: list[str]) -> int:
    """Show and write the finished cells of each sweep, and of all together. Raises UsageError if there are none."""
    settings = [word for word in words if "=" in word and not Path(word).exists()]
    values, given = cli.parse(settings, KEYS, _faults), [word for word in words if word not in settings]
    paths = [*dict.fromkeys(map(Path, given))]
    paths = paths or [path for path in sorted(ALL.glob("*/")) if any(map(store.is_finished, store.read_whole(path)))]
    if not paths:
        raise UsageError(f"{ALL}/: no sweeps here; run one, or give their folders")
    together = len(paths) > 1 or not given
    names = [path.resolve().name for path in paths]
    names = names if len(set(names)) == len(names) else [str(path) for path in paths]
    sweeps = [_read(path, name if together else "") for path, name in zip(paths, names, strict=True)]
    reports, written = [write.Report.of([sweep]) for sweep in sweeps], []
    whole: write.Report = reports[0]
    compared = []
    if together:
        whole = write.Report.of(sweeps, [section for report in reports for section in report.sections])
        compared = [summaries.compare(sweeps[0], other) for other in sweeps[1:]] if given else []
    if values["table"]:
        side, form = [table for table, _ in compared if table], values["format"] or FORMATS[0]
        print(single(whole, side, name=values["table"], form=form, columns=values["columns"]), end="")
        return 0
    for path, report in zip(paths, reports, strict=True):
        folder = path.with_suffix("") if path.suffix == store.ARCHIVE_SUFFIX else path
        folder.mkdir(exist_ok=True)
        written += write.write_sweep(report, folder)
        study = report.sweeps[0].whole
        cli.show(tables.results(study), articles.articles(study), tables.baselines(study))
    if together:
        cli.show(*(table for table, _ in compared))
        ALL.mkdir(exist_ok=True)
        written += write.write_together(whole, compared, ALL)
    if summaries.verdicts(whole.judged) is None:
        print(tables.TEXTS["nothing"])
    cli.show(summaries.verdicts(whole.judged))
    print("\n".join(f"Written: {path}" for path in written))
    return 0


def _faults(values: Mapping[str, Any]) -> Iterator[str]:
    if values["format"] not in ("", *FORMATS):
        yield f"format={values['format']}: no such format; allowed are {allowed(FORMATS)}"
    for key in ("columns", "format"):
        if values[key] and not values["table"]:
            yield f"{key}={values[key]}: is of one table; add table=NAME, such as table=results"


def _read(path: Path, name: str) -> Sweep:
    if path.is_file() and path.suffix != store.ARCHIVE_SUFFIX:
        raise UsageError(f"{path}: no archive (.jsonl), and no folder; give the folder of a sweep, or an archive")
    if not path.exists():
        raise UsageError(f"{path}: no such folder; give the folder of a sweep, or an archive (.jsonl)")
    records = list(store.read_all(path))
    if not any(map(store.is_finished, records)):
        raise UsageError(f"{path}: no finished cells here; give the folder of a sweep, or an archive (.jsonl)")
    return Sweep.of(records, name, path)


if __name__ == "__main__":
    cli.run(main, HELP)
