"""The conditions under which a score of a language model means something, each tried on random texts.

Shapes: B lanes, T characters, V vocabulary.
"""

import math
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import NamedTuple

import torch
from torch import Tensor

from hrm_bench.causal.changes import Gap, changed_texts, early
from hrm_bench.causal.reader import Reader
from hrm_bench.causal.report import CONDITIONS, Finding, Report

MOST_NUMBERS = 2**24  # outputs of one call
MOST_LANES = 64
NUM_LANES = 4  # texts that are read at once where lanes are compared
FEW = 16  # starts that are tried one by one, if lanes may not share a call
FEW_SYMBOLS, PERIOD = 3, 7
KINDS = ((0, 0), (FEW_SYMBOLS, 0), (0, PERIOD))  # of texts: how many symbols, and with which period; 0: no limit
NOT_ROUNDING = 16  # times rounding: more is no noise of reading the same again
SUM_TOLERANCE = 1e-9

Read = Callable[[Reader, Tensor], Tensor]


class Drawn(NamedTuple):
    """Random texts, and another character for every position of them."""

    texts: Tensor  # (B, T)
    others: Tensor  # (B, T)


class Audit:
    """One audit of one model; it keeps one finding per condition: the one that sees farthest, or the first."""

    def __init__(self, reader: Reader, predicts: str) -> None:
        self.reader, self.predicts = reader, predicts
        self.unseen = int(predicts == "same")  # 1 if an output may not see its own character either
        self.found: dict[str, Finding] = {}
        self.num_perturbations = 0
        self.is_hopeless = False  # if outputs are no numbers or change by themselves, which shows nothing else

    def report(self, lengths: Sequence[int], stream: torch.Generator) -> Report:
        """Try texts of every kind and length."""
        reader = self.reader
        for kind in KINDS:
            for length in lengths:
                if not self.is_hopeless:
                    self._try(self._draw(length, *kind, stream), kind)
        applies = {"sum": reader.output == "probabilities", "update": self.unseen, "cache": reader.step is not None}
        return Report(
            name=reader.name,
            predicts=self.predicts,
            conditions=[name for name in CONDITIONS if applies.get(name, True)],
            lengths=[*lengths],
            num_perturbations=self.num_perturbations,
            tolerance=vars(self).get("exact", reader).tolerance,
            findings=[self.found[name] for name in CONDITIONS if name in self.found],
        )

    @cached_property
    def exact(self) -> Reader:
        """The model in double precision if it runs so, else as it is: it decides which changes are rounding."""
        return self.reader.in_double() or self.reader

    def _draw(self, length: int, num_symbols: int, period: int, stream: torch.Generator) -> Drawn:
        symbols = torch.randperm(self.reader.vocabulary, generator=stream)[: num_symbols or None]
        shape, size = (NUM_LANES + length % 2, length), len(symbols)
        texts = torch.randint(size, shape, generator=stream)[:, torch.arange(length) % (period or length)]
        texts = symbols[texts]
        others = (texts + torch.randint(1, self.reader.vocabulary, shape, generator=stream)) % self.reader.vocabulary
        return Drawn(texts.to(self.reader.device), others.to(self.reader.device))

    def _try(self, drawn: Drawn, kind: tuple[int, int]) -> None:
        """Try every condition on texts, and read in pieces as well if the model can."""
        length = drawn.texts.shape[1]
        reads: dict[str, Read] = {"": Reader.whole}
        if self.reader.step is not None:
            sizes = {length // 2} if any(kind) else {1, 5, length // 2, length - 1}
            for size in sorted(sizes & {*range(1, length)}):
                reads[f", read in pieces of {size},"] = partial(Reader.in_pieces, size=size)
        self._numbers(drawn.texts)
        if self.is_hopeless:
            return
        in_one_and_in_two = [*reads.items()][:: max(1, len(reads) - 1)]
        for way, read in in_one_and_in_two:
            self._repeat(drawn, way, read)
        if self.is_hopeless:
            return
        for way, read in [*reads.items()][1:]:
            self._cache(drawn.texts, way, read)
        for way, read in in_one_and_in_two:
            self._lanes(drawn, way, read)
        for way, read in reads.items():
            if not way or "cache" in self.found:  # otherwise both ways are one
                self._future(drawn, way, read, to_end=kind == KINDS[1])
        self._prefixes(drawn.texts)

    def _numbers(self, texts: Tensor) -> None:
        """Look for outputs that are no numbers, and for probabilities that are negative or do not sum to 1."""
        outputs, epsilon = self.reader.whole(texts).double(), self.reader.epsilon
        length, size = outputs.shape[1:]
        tolerance = max(SUM_TOLERANCE, epsilon * (max(16, math.sqrt(size)) if epsilon < 1e-4 else 4))
        faults = [(outputs.isnan().any(dim=-1), outputs[..., 0], "the output at position {position} is not a number")]
        if self.reader.output == "probabilities":
            least, total = outputs.amin(dim=-1), outputs.sum(dim=-1)
            faults += [
                (least < -tolerance, least, "a probability at position {position} is {value:.3g}"),
                ((total - 1).abs() > tolerance, total, "the probabilities at position {position} sum to {value:.6g}"),
            ]
        for is_wrong, values, sentence in faults:
            if is_wrong.any():
                lane, position = is_wrong.nonzero()[0].tolist()
                value = float(values[lane, position])
                self.is_hopeless |= math.isnan(value)
                change = abs(value - 1) if "sum" in sentence else abs(value)
                self._add("sum", length, position, change, sentence.format(position=position, value=value))

    def _repeat(self, drawn: Drawn, way: str, read: Read) -> None:
        """Read texts twice, and others between; a small difference is the noise of the model."""
        first = read(self.reader, drawn.texts)
        read(self.reader, drawn.others)
        gap = self.reader.compare(read(self.reader, drawn.texts), first)
        noise = float(gap.relative.max())
        if noise <= NOT_ROUNDING * self.reader.rounding:
            self.reader.noise = max(self.reader.noise, noise)
        else:
            self.is_hopeless = True
            _, position, change = _largest(gap)
            sentence = (
                f"the output at position {position}{way} differs by {change:.2g} if the same text is read again: the "
                "model draws random numbers or keeps a state between calls, and nothing else was tried"
            )
            self._add("repeat", drawn.texts.shape[1], position, change, sentence)

    def _cache(self, texts: Tensor, way: str, read: Read) -> None:
        """Compare reading in pieces with one call."""

        def against_one_call(reader: Reader) -> Gap:
            return reader.compare(read(reader, texts), reader.whole(texts))

        sentence = f"the output at position {{position}}{way} differs by {{change:.2g}} from that of one call"
        self._equal("cache", texts.shape[1], against_one_call, sentence)

    def _lanes(self, drawn: Drawn, way: str, read: Read) -> None:
        """Look for outputs that change with the other lanes, with their order, and with their number."""
        texts, others = drawn
        last = len(texts) - 1

        def with_others(reader: Reader, kept: int) -> Gap:
            mixed = others.clone()
            mixed[kept] = texts[kept]
            return reader.compare(read(reader, mixed)[kept, None], read(reader, texts)[kept, None])

        def rolled(reader: Reader) -> Gap:
            return reader.compare(read(reader, texts.roll(1, dims=0)).roll(-1, dims=0), read(reader, texts))

        def alone(reader: Reader) -> Gap:
            return reader.compare(read(reader, texts[:1]), read(reader, texts)[:1])

        cases: dict[str, Callable[[Reader], Gap]] = {
            "the texts of the other lanes change": partial(with_others, kept=0),
            "the texts of the lanes before it change": partial(with_others, kept=last),
            "the lanes change their order": rolled,
            "its lane is read alone": alone,
        }
        for cause, measure in cases.items():
            sentence = f"the output at position {{position}}{way} changes by {{change:.2g}} if {cause}"
            self._equal("lanes", texts.shape[1], measure, sentence)

    def _prefixes(self, texts: Tensor) -> None:
        """Look for outputs that change if the text ends before it does."""
        length = texts.shape[1]
        for end in sorted({1, length // 3, length // 2, length - 1} & {*range(1, length)}):

            def cut(reader: Reader, end: int = end) -> Gap:
                return reader.compare(reader.whole(texts[:, :end]), reader.whole(texts)[:, :end])

            sentence = f"the output at position {{position}} changes by {{change:.2g}} if the text ends at {end - 1}"
            self._equal("future", length, cut, sentence)

    def _equal(self, condition: str, length: int, measure: Callable[[Reader], Gap], sentence: str) -> None:
        """Add a finding if a gap is more than rounding."""
        if condition in self.found:
            return
        if (gap := self._real(measure)) is not None:
            _, position, change = _largest(gap)
            self._add(condition, length, position, change, sentence.format(position=position, change=change))

    def _future(self, drawn: Drawn, way: str, read: Read, *, to_end: bool) -> None:
        """Change one character at a time, or all from a position on, and look at the outputs that may not see it."""
        text, others = drawn.texts[0], drawn.others[0]
        starts = torch.arange(1 - self.unseen, len(text), device=text.device)
        if "lanes" in self.found:  # then each text is read alone
            starts = starts[torch.linspace(0, len(starts) - 1, min(FEW, len(starts))).long()]
        if not len(starts):
            return
        self.num_perturbations += len(starts)
        measure = partial(self._moved, read=read, text=text, others=others, starts=starts)
        gap = self._real(partial(measure, to_end=to_end))
        if gap is None:
            return
        if to_end and (single := self._real(partial(measure, to_end=False))) is not None:
            gap, to_end = single, False
        is_early = early(starts, len(text))
        for condition, part in (("future", gap.where(is_early)), ("update", gap.where(~is_early))):
            if part.relative.any():
                lane, position, change = _largest(part)
                start = int(starts[lane])
                lanes, positions = part.relative.nonzero(as_tuple=True)
                farthest = int((starts[lanes] - positions).max()) + self.unseen
                ahead = start - position + self.unseen
                changed = f"all characters from {start} on change" if to_end else f"the character at {start} changes"
                if condition == "update":
                    sees = ", which it is to predict"
                else:
                    sees = f": it sees {'at least ' if to_end else ''}{_characters(ahead)} ahead"
                    sees += f", and another output {farthest}" if farthest > ahead else ""
                sentence = f"the output at position {position}{way} changes by {change:.2g} if {changed}{sees}"
                self._add(condition, len(text), position, change, sentence, farthest)

    def _moved(self, reader: Reader, *, read: Read, text: Tensor, others: Tensor, starts: Tensor, to_end: bool) -> Gap:
        """Return how far outputs that may not see a change move with it, (starts, T)."""
        length = len(text)
        most = 1 if "lanes" in self.found else min(MOST_LANES, max(1, MOST_NUMBERS // (length * reader.vocabulary)))
        references = dict[int, Tensor]()
        parts = []
        for some in starts.split(most):
            lanes = len(some)
            if lanes not in references:  # of as many lanes, since another number rounds differently
                references[lanes] = read(reader, text.expand(lanes, -1))
            hidden = early(some + self.unseen, length)
            outputs = read(reader, changed_texts(text, others, some, to_end=to_end))
            gap = reader.compare(outputs[hidden][None], references[lanes][hidden][None])
            parts.append(Gap(*(values.new_zeros(hidden.shape).masked_scatter(hidden, values) for values in gap)))
        return Gap(*(torch.cat(values) for values in zip(*parts, strict=True)))

    def _real(self, measure: Callable[[Reader], Gap]) -> Gap | None:
        """Return what of a gap is more than rounding; None if nothing is."""
        gap = measure(self.reader)
        if not gap.relative.any():
            return None
        if self.exact is not self.reader:
            gap = measure(self.exact)
        is_real = gap.relative > self.exact.tolerance
        return gap.where(is_real) if is_real.any() else None

    def _add(
        self, condition: str, length: int, position: int, change: float, sentence: str, ahead: int | None = None
    ) -> None:
        if condition not in self.found or (ahead or 0) > (self.found[condition].ahead or 0):
            text = f"in a text of {_characters(length)}, {sentence}"
            self.found[condition] = Finding(condition, text, length, position, change, ahead)


def _characters(number: int) -> str:
    return f"{number} character{'' if number == 1 else 's'}"


def _largest(gap: Gap) -> tuple[int, int, float]:
    """Return lane, position and size of the change that is largest as a fraction of its entry."""
    lane, position = divmod(int(gap.relative.argmax()), gap.relative.shape[1])
    return lane, position, float(gap.change[lane, position])
