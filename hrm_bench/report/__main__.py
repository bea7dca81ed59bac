"""``python -m hrm_bench.report [FOLDER ...]``: tables, pictures and pages of sweeps, again, from their records."""

from collections.abc import Sequence
from pathlib import Path

from hrm_bench.errors import UsageError, command
from hrm_bench.records import store
from hrm_bench.records.schema import Record
from hrm_bench.report import beside, claims, compare, outputs, tables, verdicts
from hrm_bench.report.sections import sections

ALL = Path("multirun")


def main(words: list[str]) -> int:
    """Show and write what each sweep folder (default: all in multirun/ that have) has finished, and all together.

    Of several folders that are named, each is also set beside the first. Raises UsageError where a folder is missing
    or has no finished cell.
    """
    folders = list(dict.fromkeys(map(Path, words)))
    folders = folders or [
        each for each in sorted(ALL.glob("*/")) if any(map(store.is_finished, store.read_whole(each)))
    ]
    if not folders:
        raise UsageError(f"{ALL}/: no sweeps here; run one, or give their folders")
    sweeps = {name: _read(folder) for name, folder in zip(_names(folders), folders, strict=True)}
    written, together = [], []
    for (name, found), folder in zip(sweeps.items(), folders, strict=True):
        tables.show(_finished(found))
        made = sections(found, name)
        written += outputs.write_sweep(found, folder, made)
        together += made
    if len(folders) > 1 or not words:
        above = folders[0].absolute().parent if words else ALL
        compared = compare.compare({name: _finished(found) for name, found in sweeps.items()}) if words else []
        compare.show(compared)
        found_beside = [beside.read(folder, name) for name, folder in zip(sweeps, folders, strict=True)]
        written += outputs.write_together(sweeps, above, together, compared, found_beside)
    verdicts.show(claims.findings([record for found in sweeps.values() for record in _finished(found)]))
    for path in written:
        print(f"Written: {path}")
    return 0


def _read(folder: Path) -> list[Record]:
    """All records of a sweep, of which one at least is finished."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; give the folder of a sweep")
    found = list(store.read_all(folder))
    if not _finished(found):
        raise UsageError(f"{folder}: no finished cells here; give the folder of a sweep")
    return found


def _finished(found: Sequence[Record]) -> list[Record]:
    return [record for record in found if store.is_finished(record)]


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' own names, or all of their paths where two have the same."""
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


if __name__ == "__main__":
    command(main)
