"""A sweep by this checkout and by another commit of it, in turns, as a user types it."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.commands import FIRST_SEED, MODEL, ROOT, python, sweep_words
from benchmarks.settings import Settings
from benchmarks.table import Row, compare
from hrm_bench.errors import UsageError

QUESTION = "how many cells per hour does a sweep train, compared with another commit (against=COMMIT)?"


def measure(settings: Settings) -> Iterator[Row | str]:
    """Yield a row of cells per hour. Raises UsageError if the commit cannot be checked out."""
    other = settings.against
    seeds = ",".join(map(str, range(FIRST_SEED, FIRST_SEED + settings.num_seeds)))
    words = [*sweep_words(settings), f"seed={seeds}", "launcher=joblib"]
    rates: dict[str, list[float]] = {"this": [], other: []}
    with checked_out(other) as folder:
        for root in (folder, ROOT):
            try:
                _run(words, root)  # fills its caches
            except subprocess.CalledProcessError as error:
                reason = (error.stderr or str(error)).strip().splitlines()[-1]
                yield f"{other if root == folder else 'this commit'} does not train this sweep here: {reason}"
                return
        for _ in range(settings.few_rounds):
            for name, root in (("this", ROOT), (other, folder)):
                rates[name].append(3600 * settings.num_seeds / _run(words, root))
    note = f"{settings.num_seeds} cells of {MODEL}, launcher=joblib, with warm caches"
    yield compare("sweep", "all cores", rates, "this", other, unit="cells/h", note=note)


def resolved(commit: str) -> str:
    """Return a commit's short hash. Raises UsageError if this checkout has none of that name."""
    done = _git("rev-parse", "--verify", "--quiet", "--short", f"{commit}^{{commit}}")
    if done.returncode:
        raise UsageError(f"against={commit}: this checkout has no such commit; git log --oneline lists them")
    return done.stdout.strip()


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """Check a commit out beside this checkout, and remove it afterwards."""
    with TemporaryDirectory() as parent:
        folder = Path(parent) / "checkout"
        done = _git("worktree", "add", "--detach", str(folder), commit)
        if done.returncode:
            raise UsageError(f"against={commit}: {done.stderr.strip().splitlines()[-1]}")
        try:
            yield folder
        finally:
            _git("worktree", "remove", "--force", str(folder))


def _run(words: Sequence[str], root: Path) -> float:
    """Return the seconds of a sweep by the code of a checkout."""
    with TemporaryDirectory() as folder:
        return python("-m", "hrm_bench", "-m", *words, cwd=Path(folder), root=root)[0]


def _git(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)
