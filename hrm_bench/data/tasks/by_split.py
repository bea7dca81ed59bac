"""Tasks whose splits differ in more than their seeds, such as in their text or in how long their questions are."""

from abc import abstractmethod

from hrm_bench.data.task import Hashes, Task
from hrm_bench.data.text import Text


class BySplit(Task):
    """A task that knows which split it draws from, and whose exact levels depend on the split."""

    split = "train"  # of the sample that is drawn now

    @abstractmethod
    def levels_of(self, split: str) -> dict[str, float]:
        """Return the exact levels of a scored split: the perplexity per answer, by what a reader knows."""

    def levels(self) -> dict[str, float]:
        return self.levels_of("test")

    def _text(self, name: str, epoch: int, used: Hashes) -> Text:
        self.split = name
        return super()._text(name, epoch, used)
