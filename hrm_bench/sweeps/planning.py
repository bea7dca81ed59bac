"""The progress of planning, which is shown before anything that is slow to import."""

import sys
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

MANY = 100  # cells whose planning takes seconds


def planning(combinations: Sequence[Sequence[str]]) -> Iterator[Sequence[str]]:
    """Return the words of each cell to plan, with a bar in a terminal, and a line elsewhere if there are many.

    The bar or line shows at once; the words are yielded as they are asked for.
    """
    console = Console(stderr=True)
    if not console.is_terminal and len(combinations) >= MANY:
        print(f"planning {len(combinations):,} cells", file=sys.stderr, flush=True)
    columns = (TextColumn("planning"), BarColumn(bar_width=20), MofNCompleteColumn(), TextColumn("cells"))
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    progress.start()
    tracked = progress.track(combinations)

    def words() -> Iterator[Sequence[str]]:
        try:
            yield from tracked
        finally:
            progress.stop()

    return words()
