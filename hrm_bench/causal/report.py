"""The result of an audit: its conditions, its findings, and what was tried."""

from dataclasses import dataclass, field

CONDITIONS = {
    "future": "no output sees a later character",
    "sum": "outputs are numbers; probabilities are not negative and sum to 1 over the vocabulary",
    "update": "a character is scored before anything holds it",
    "lanes": "a lane's output depends neither on the other lanes nor on their order",
    "cache": "reading in pieces with a state gives what one call gives",
    "repeat": "the same text gives the same output again",
}


@dataclass(frozen=True)
class Finding:
    """A condition that a model breaks, with the largest breach in the first text that shows one."""

    condition: str  # of CONDITIONS
    sentence: str
    length: int  # characters of the text
    position: int  # of the output, from 0
    change: float  # of an output; of a sum, how far it is from 1
    ahead: int | None = None  # how far after the last character that the output may see

    def __str__(self) -> str:
        return f"{self.condition}: {self.sentence}"


@dataclass(frozen=True)
class Report:
    """The texts that an audit has tried, and the breaches that they show."""

    name: str
    predicts: str
    conditions: list[str]
    lengths: list[int]
    num_perturbations: int  # texts with a change in what some outputs may not see
    tolerance: float  # the largest change, as a fraction of an output's size, that counts as rounding
    findings: list[Finding] = field(default_factory=list)

    @property
    def is_causal(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def __str__(self) -> str:
        if self.findings:
            return "\n".join(f"{self.name}: NOT CAUSAL: {finding}" for finding in self.findings)
        return (
            f"{self.name}: causal, if output i predicts character {'i + 1' if self.predicts == 'next' else 'i'}; "
            f"conditions: {', '.join(self.conditions)}; texts of {', '.join(map(str, self.lengths))} characters; "
            f"{self.num_perturbations:,} perturbations; rounding: changes up to {self.tolerance:.0e} of an output"
        )


class NotCausal(AssertionError):
    """A model breaks a condition; ``report`` has the findings."""

    def __init__(self, report: Report) -> None:
        super().__init__(str(report))
        self.report = report
