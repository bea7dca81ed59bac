"""Papers and their claims (``papers/*.yaml``), and whether a record may speak about them; the record alone decides."""

import datetime
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError

from hrm_bench import statistics
from hrm_bench.errors import UsageError, allowed
from hrm_bench.records import metrics
from hrm_bench.records.facts import PUBLISHED, has_values, recipe_name
from hrm_bench.records.schema import Record

NUM_CELLS = {"level": 1, "difference": 2, "share": 4, "property": 1}  # of a claim's quantity
MEMORIES = ("none", "reset", "carry")
FIGURE_KEYS, REFERENCE_KEYS = ("model", "memory", "perplexity"), ("model", "perplexity", "text")


def _with_commands(experiments: Any) -> Any:
    """Give the experiments of a list their commands."""
    if isinstance(experiments, list) and all(isinstance(name, str) for name in experiments):
        return {name: f"python -m hrm_bench -m experiment={name}" for name in experiments}
    return experiments


@dataclass(frozen=True)
class Source:
    """Where the claims of a paper were made."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    title: str = ""
    date: datetime.date | str = ""
    link: str = ""
    arxiv: str = ""
    where: str = ""  # in it, for claims that do not say it themselves

    @property
    def name(self) -> str:
        """A short name: the arXiv number, or the title."""
        return f"arXiv {self.arxiv}" if self.arxiv else self.title

    @property
    def citation(self) -> str:
        """Title, date and every number or address by which it is found."""
        date = f" ({self.date})" if self.date else ""
        places = [f"arXiv {self.arxiv}" if self.arxiv else "", self.link]
        return ", ".join(filter(None, [f"{self.title}{date}".strip(), *places]))


@dataclass(frozen=True)
class Claim:
    """One claim of a paper; the paper's file explains the fields."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    claim: str
    quantity: statistics.Kind
    cells: list[dict[str, Any]]
    experiments: Annotated[dict[str, str], BeforeValidator(_with_commands)]  # name -> command
    report: int | str = ""
    published: str = "no figure"
    where: str = ""
    metric: str = metrics.DEFAULT
    population: Literal["text", "articles"] = "text"
    causal: bool | None = None
    figure: float | None = None
    range: list[float | None] | None = None
    direction: bool = False
    leak: bool = False
    scope: str = ""

    @property
    def measure(self) -> str:
        """The quantity as a formula of variants."""
        forms = {"level": "{}", "difference": "{} to {}", "share": "({} - {}) / ({} - {})"}
        text = forms.get(self.quantity, "{} is causal" if self.causal else "{} is not causal").format(
            *map(cell_label, self.cells)
        )
        if self.population == "articles":
            return f"{text}, on held-out articles"
        of_default = self.metric == metrics.DEFAULT
        return text if of_default else f"{text}, {metrics.metric(self.metric).noun}"


@dataclass(frozen=True)
class Paper:
    """A paper's text, protocol, figures and claims; its file explains the fields."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    title: str
    text: dict[str, Any]
    claims: list[Claim]
    source: Source = field(default_factory=Source)
    protocol: dict[str, Any] = field(default_factory=dict)
    published_recipe: dict[str, Any] = field(default_factory=dict)
    chosen_per_model: list[str] = field(default_factory=list)
    sizes: dict[str, dict[str, int]] = field(default_factory=dict)
    figures: list[dict[str, Any]] = field(default_factory=list)
    references: list[dict[str, Any]] = field(default_factory=list)
    everywhere: dict[str, str] = field(default_factory=dict)
    margin: float = statistics.MARGIN
    spread: float = 1.0
    most_seeds: int = 64

    @property
    def experiments(self) -> list[str]:
        """The experiments that have the cells of the claims."""
        return list(dict.fromkeys(name for claim in self.claims for name in claim.experiments))

    def place(self, claim: Claim) -> str:
        """Return where a claim was made, in short; empty if the file does not say it."""
        numbered = f"report {claim.report}" if isinstance(claim.report, int) else claim.report
        return ", ".join(filter(None, [self.source.name, claim.where or self.source.where or numbered]))

    def figure(self, record: Record) -> float | None:
        """Return the published perplexity of a record's model and memory, if its experiment repeats the paper's run."""
        config, variant = record["config"], (record["model"], record["memory"])
        if not has_values(config, {"data": self.text}):
            return None
        for table in self.figures:
            if config["experiment"]["name"] in table["experiments"]:
                for row in table["figures"]:
                    if (row["model"], row["memory"]) == variant:
                        return float(row["perplexity"])
        return None

    def published_run(self, claim: Claim, cell: Mapping[str, Any]) -> float | None:
        """Return the perplexity of the run that a claim's cell stands for; the claim's own experiments come first."""
        variant = (cell["model"], cell.get("memory", "none"))
        tables = sorted(self.figures, key=lambda table: claim.experiments.keys().isdisjoint(table["experiments"]))
        rows = (row for table in tables for row in table["figures"] if not settings_of(cell))
        return next((float(row["perplexity"]) for row in rows if (row["model"], row["memory"]) == variant), None)

    def is_about(self, record: Record) -> bool:
        """Whether a record has the paper's text, protocol and sizes, and the values of the recipe that it names."""
        wanted = {"data": self.text, "model": self.sizes.get(record["model"], {})}
        if recipe_name(record) == PUBLISHED:
            return has_values(record["config"], wanted | {"recipe": self.published_recipe} | self.protocol)
        return has_values(record["config"], wanted | self.protocol) and not _changes_recipe(record)

    def shared_recipe(self, record: Record) -> dict[str, Any]:
        """Return the values of a record's recipe that all cells of a claim must share."""
        return {k: value for k, value in record["config"].get("recipe", {}).items() if k not in self.chosen_per_model}


def _folder() -> Path:
    """Return the folder of the papers: in the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    return package / "papers" if (package / "papers").is_dir() else package.parent / "papers"


def read_file(path: Path) -> Paper:
    """Return the paper that a YAML file describes. Raises UsageError with one line per fault."""
    try:
        return read(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); give a file of claims") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    except UsageError as error:
        raise UsageError(*(f"{path}: {fault}" for fault in error.faults)) from error


def read(text: str) -> Paper:
    """Return the paper that the text of a YAML file describes. Raises UsageError with one line per fault."""
    content = yaml.safe_load(text)
    if not isinstance(content, dict):
        raise UsageError("has no keys; it needs title, text and claims")
    try:
        paper = TypeAdapter(Paper).validate_python(content)
    except ValidationError as error:
        raise UsageError(*_lines(error)) from None
    if faults := [*_faults(paper)]:
        raise UsageError(*faults)
    return paper


def _lines(error: ValidationError) -> Iterator[str]:
    for item in error.errors(include_url=False):
        key = ".".join(map(str, item["loc"]))
        if item["type"] == "missing":
            yield f"{key}: missing; give {key.rpartition('.')[2]}"
        elif item["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            group = {"claims": Claim, "source": Source}.get(str(item["loc"][0]), Paper)
            yield f"{key}: no such key; allowed are {allowed(field.name for field in fields(group))}"
        elif item["type"] == "string_type" and isinstance(item["input"], int | float):
            yield f"{key}={item['input']}: must be text; write it in quotes"
        else:
            message = item["msg"][0].lower() + item["msg"][1:]
            yield f"{key}={item['input']}: {message}"


def _faults(paper: Paper) -> Iterator[str]:
    """Yield what the values of a paper's claims lack together."""
    texts = [claim.claim for claim in paper.claims]
    for number, claim in enumerate(paper.claims):
        key = f"claims.{number}"
        if claim.claim in texts[:number]:
            yield f"{key}.claim: an earlier claim has the same text; say how the two differ"
        if len(claim.cells) != (wanted := NUM_CELLS[claim.quantity]):
            yield f"{key}.cells: has {len(claim.cells)}; quantity: {claim.quantity} is of {wanted}"
        for place, cell in enumerate(claim.cells):
            if not isinstance(cell.get("model"), str):
                yield f"{key}.cells.{place}: names no model; for example {{model: hrm, memory: carry}}"
            if cell.get("memory", "none") not in MEMORIES:
                yield f"{key}.cells.{place}.memory={cell['memory']}: must be one of {allowed(MEMORIES)}"
        if not claim.experiments:
            yield f"{key}.experiments: names none; give the experiment in conf/experiment that has the cells"
        if not metrics.is_known(claim.metric):
            yield (
                f"{key}.metric={claim.metric}: not known; allowed are {allowed(metrics.METRICS)}, or a dotted key of a "
                f"record, such as memory_use.validation.own"
            )
        if claim.population == "articles" and claim.quantity not in ("level", "difference"):
            yield f"{key}.population=articles: it is of quantity: level and difference only; leave it out"
        elif claim.population == "articles" and claim.metric != metrics.DEFAULT:
            yield f"{key}.metric: population: articles is about perplexity; leave it out"
        yield from _range_faults(key, claim)
    for number, table in enumerate(paper.figures):
        if not (isinstance(table.get("experiments"), list) and isinstance(table.get("figures"), list)):
            yield f"figures.{number}: must have experiments and figures, each a list"
            continue
        yield from _row_faults(f"figures.{number}.figures", table["figures"], FIGURE_KEYS)
    yield from _row_faults("references", paper.references, REFERENCE_KEYS)


def _row_faults(key: str, rows: Sequence[Any], needed: Sequence[str]) -> Iterator[str]:
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or not all(name in row for name in needed):
            yield f"{key}.{number}: must have {allowed(needed)}"
        elif type(row["perplexity"]) not in (int, float):
            yield f"{key}.{number}.perplexity={row['perplexity']}: must be a number"


def _range_faults(key: str, claim: Claim) -> Iterator[str]:
    """Yield what is wrong with the values that give a claim its accepted range."""
    if claim.quantity == "property":
        if claim.causal is None:
            yield f"{key}.causal: missing; quantity: property needs it: true or false"
        of_figures = {"metric": claim.metric != metrics.DEFAULT, "direction": claim.direction}
        of_figures |= {"figure": claim.figure is not None, "range": claim.range is not None}
        yield from (
            f"{key}.{name}: quantity: property has none; leave it out"
            for name, is_given in of_figures.items()
            if is_given
        )
        return
    if claim.causal is not None:
        yield f"{key}.causal: it is of quantity: property only; leave it out"
    if claim.direction and (claim.quantity != "difference" or claim.range is not None):
        why = "range says it" if claim.quantity == "difference" else "it is of quantity: difference only"
        yield f"{key}.direction: {why}; leave it out"
    if claim.range is None:
        if claim.figure is None and claim.quantity != "share":
            yield f"{key}.figure: missing; quantity: {claim.quantity} needs the published value, or a range"
        if claim.figure == 0:
            yield f"{key}.figure=0: no accepted range follows from it; give range: [low, high]"
        return
    bounds = [bound for bound in claim.range if bound is not None]
    if len(claim.range) != 2 or not bounds:
        yield f"{key}.range: must be [low, high]; null in place of one of them is no bound"
    elif bounds[0] >= bounds[-1] and len(bounds) == 2:
        yield f"{key}.range: low must be below high; write [{bounds[1]:g}, {bounds[0]:g}]"


FOLDER = _folder()
PAPERS = [read_file(path) for path in sorted(FOLDER.glob("*.yaml"))]


def published_figure(record: Record) -> float | None:
    """Return the perplexity that a paper published for this record's variant."""
    return next((figure for paper in PAPERS if (figure := paper.figure(record)) is not None), None)


def settings_of(cell: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config keys that a claim's cell names besides model and memory."""
    return {key: value for key, value in cell.items() if key not in {"model", "memory"}}


def cell_label(cell: Mapping[str, Any]) -> str:
    """Return a claim's cell as a reader sees it."""
    memory = [cell["memory"]] if "memory" in cell else []
    return " ".join([cell["model"], *memory, *(f"{key}={str(v).lower()}" for key, v in settings_of(cell).items())])


def _changes_recipe(record: Record) -> bool:
    """Whether the words of a cell change a value of its recipe without giving the recipe another name."""
    words = [word.lstrip("+~") for word in record.get("overrides", []) if word.lstrip("+~").startswith("recipe.")]
    return bool(words) and not any(word.startswith("recipe.name=") for word in words)
