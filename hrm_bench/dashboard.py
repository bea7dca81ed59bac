"""``python -m hrm_bench.dashboard [key=value ...]``: a W&B workspace that compares model × memory × seed.

project=NAME     the runs' project (hrm_bench)
entity=NAME      its owner (WANDB_ENTITY, or else the login's default entity)
experiment=NAME  one experiment's runs alone (all)

Every command saves a workspace of its own and prints where it is. It shows the runs that ``tracking`` mirrors, once
they are synced, and is never read from: the report's figures come from the records.
"""

import difflib
import re
import threading
import warnings
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from hrm_bench import network
from hrm_bench.config.compose import conf_folder
from hrm_bench.errors import UsageError, allowed, command

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Section, Workspace

DEFAULTS = {"project": "hrm_bench", "entity": "", "experiment": ""}
MOST_SHOWN = 100  # groups of runs in one panel; W&B's own default is 10
COLUMNS = [
    "summary:causal",
    "config:model.value.name",
    "config:memory.value.mode",
    "config:seed.value",
    "summary:validation/perplexity",
    "summary:test/perplexity",
    "summary:best_epoch",
    "summary:status",
]
READING = """\
A line or a bar is the mean over the seeds of one model and memory mode; the band is their range, the whisker their sd.

**causal: false** has seen what it was to predict: it has groups of its own, and its perplexity is not comparable. A run
without *causal* has not finished.

This is a mirror. Figures to quote, with their intervals and floors, come from `python -m hrm_bench.report`.
"""


def parse(words: Sequence[str]) -> dict[str, str]:
    """The settings in ``DEFAULTS`` and in key=value words. Raises UsageError with every fault, a line each."""
    settings, faults = dict(DEFAULTS), []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            faults.append(f"{word}: not understood; write key=value, with a key of {allowed(DEFAULTS)}")
        elif key not in DEFAULTS:
            near = [f"; did you mean {each}={value}?" for each in difflib.get_close_matches(key, DEFAULTS, n=1)]
            faults.append(f"{key}: no such key; allowed are {allowed(DEFAULTS)}{''.join(near)}")
        elif not value:
            faults.append(f"{word}: must not be empty; give {key}=NAME, or leave it out")
        elif key == "experiment" and not re.fullmatch(r"[\w. -]+", value):  # W&B's filters have no escapes
            faults.append(f"{word}: may have letters, digits, blanks and . _ - only")
        else:
            settings[key] = value
    if faults:
        raise UsageError(*faults)
    return settings


def workspace(*, entity: str, project: str, experiment: str = "") -> "Workspace":
    """The workspace, not yet saved; it needs no network. Raises UsageError where its library is not installed."""
    _import_library()
    import wandb_workspaces.workspaces as ws

    settings = [ws.Config("model.name"), ws.Config("memory.mode"), *map(ws.Config, _also_swept(experiment))]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"{experiment or 'All experiments'}: model, memory, seed",
        sections=_sections(),
        settings=ws.WorkspaceSettings(max_runs=MOST_SHOWN),
        runset_settings=ws.RunsetSettings(
            filters=f"Metric('Group') == '{experiment}'" if experiment else "",
            groupby=[*([] if experiment else [ws.Metric("Group")]), *settings, ws.Summary("causal")],
            order=[ws.Ordering(ws.Summary("validation/perplexity"))],  # of the table's rows, and of the bars
            pinned_columns=list(COLUMNS),
        ),
    )


def _import_library() -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its own use of pydantic
            import wandb_workspaces.reports.v2.interface
            import wandb_workspaces.workspaces  # noqa: F401
    except ImportError as error:
        raise UsageError(f"wandb-workspaces is not installed ({error}): pip install 'hrm_bench[dashboard]'") from error


def _also_swept(experiment: str) -> list[str]:
    """What else than model, memory and seed a shipped experiment varies: runs that differ in it are not seeds."""
    path = conf_folder() / "experiment" / f"{experiment}.yaml"
    shipped = OmegaConf.load(path) if path.is_file() else OmegaConf.create()
    swept = OmegaConf.select(shipped, "hydra.sweeper.params", default={})
    searched = OmegaConf.select(shipped, "hydra.sweeper.search.space", default={})
    named = {"recipe": "recipe.name"}
    return [
        *(named.get(str(key), str(key)) for key in swept if key not in {"model", "memory", "seed"}),
        *(f"recipe.{key}" for key in searched),
    ]


def _sections() -> "list[Section]":
    import wandb_workspaces.reports.v2.interface as wr
    import wandb_workspaces.workspaces as ws

    # Panels without a grouping of their own have that of the runs' table. A run's step is its epoch.
    over_seeds: dict[str, Any] = {"groupby_aggfunc": "mean", "max_runs_to_show": MOST_SHOWN}
    line = partial(wr.LinePlot, **over_seeds, groupby_rangefunc="minmax", x="Step", title_x="epoch")
    bar = partial(wr.BarPlot, **over_seeds, groupby_rangefunc="stddev", max_bars_to_show=MOST_SHOWN)
    model, memory, seed = (wr.Config(key) for key in ("model.name", "memory.mode", "seed"))
    perplexities: dict[str, Any] = {"y": ["validation_perplexity"], "log_y": True}
    causal, perplexity = wr.SummaryMetric("causal"), wr.SummaryMetric("validation/perplexity")
    panels: dict[str, list[Any]] = {
        "How to read it": [wr.MarkdownPanel(markdown=READING)],
        "Validation by epoch": [
            line(title="Validation perplexity a character", **perplexities),
            line(title="Validation, nats a character", y=["validation_nll"]),
            line(title="Training, nats a character", y=["train_nll"]),
        ],
        "Best epoch": [
            bar(title="Validation perplexity a character", metrics=["validation/perplexity"]),
            bar(title="Test perplexity a character", metrics=["test/perplexity"]),
            bar(title="Validation, bits a character", metrics=["validation/bits_per_character"]),
            bar(title="Test, bits a character", metrics=["test/bits_per_character"]),
        ],
        "Cost": [
            bar(title="Parameters", metrics=["parameters"]),
            bar(title="Characters a second in training", metrics=["characters_per_second"]),
            line(title="Validation perplexity by time", x="seconds", title_x="seconds of training", **perplexities),
        ],
        "Seeds": [
            wr.ParallelCoordinatesPlot(
                title="Each seed",
                columns=[wr.ParallelCoordinatesPlotColumn(each) for each in (model, memory, causal, seed, perplexity)],
            ),
            wr.ScatterPlot(title="Validation perplexity by seed", x=seed, y=perplexity, log_y=True),
        ],
        "Memory": [
            line(title="What the gates give to the memory", y=["memory_share"]),
            line(title="Norm of the memory's matrix", y=["memory_norm"]),
        ],
    }
    two = ws.SectionLayoutSettings(columns=2)
    return [ws.Section(name, panels=inside, is_open=True, layout_settings=two) for name, inside in panels.items()]


def _save(settings: dict[str, str]) -> str:
    """Save the workspace; its URL. Nothing is asked for, and W&B waits 19 s a request, or WANDB_HTTP_TIMEOUT."""
    import wandb

    login = wandb.setup(settings=wandb.Settings(mode="online", silent=True)).settings
    if not wandb.login(prompt=False, verify=False):
        raise UsageError(f"no login for W&B's server {login.base_url}: run wandb login, or set WANDB_API_KEY")
    if not network.answers(login.base_url):
        raise UsageError(f"W&B's server {login.base_url} does not answer; nothing is saved")
    entity = settings["entity"] or login.entity or wandb.Api().default_entity
    if not entity:
        raise UsageError("entity: the login has no default one; give entity=NAME")
    return str(workspace(**settings | {"entity": entity}).save().url)


def _end_service() -> None:
    """End W&B's own process. After a request in vain it and wandb's exit hook may wait for each other for ever."""
    import wandb

    def end() -> None:
        with suppress(Exception):  # there is no more to be done, and its outcome is known
            wandb.teardown()

    (ending := threading.Thread(target=end, daemon=True)).start()
    ending.join(network.PATIENCE)  # if it has not ended by then, it does when this process ends


def main(words: Sequence[str]) -> int:
    """Save the workspace and print its URL."""
    settings = parse(words)
    _import_library()
    try:
        print(f"Saved: {_save(settings)}")
    except UsageError:
        raise
    except Exception as error:
        told = " ".join(str(error).split())
        raise UsageError(f"{settings['project']}: W&B did not save the workspace: {told}") from error
    finally:
        _end_service()
    return 0


if __name__ == "__main__":
    command(main)
