"""Save a W&B workspace that compares model, memory and seed: ``python tools/wandb_workspace.py [key=value ...]``.

  project=hrm_bench  project of the runs
  entity=NAME        owner of the project (default: the login's)
  experiment=NAME    show the runs of one experiment only

The workspace shows synced runs and is never read back; figures to quote come from ``python -m hrm_bench.report``.
"""

import itertools
import re
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from omegaconf import OmegaConf

from hrm_bench import cli, network
from hrm_bench.config.words import conf_folder
from hrm_bench.errors import UsageError

try:
    import wandb
    import wandb_workspaces.reports.v2.interface as wr
    import wandb_workspaces.workspaces as ws
except ImportError as error:
    sys.exit(f"hrm_bench: wandb-workspaces is not installed ({error}): pip install 'hrm_bench[dashboard]'")

KEYS = {
    "project": cli.Key("project of the runs", default="hrm_bench"),
    "entity": cli.Key("owner of the project", default="", shown="NAME"),
    "experiment": cli.Key("show the runs of one experiment only", default="", shown="NAME"),
}
MAX_RUNS = 100  # groups of runs in one panel; W&B's own default is 10
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
A line or a bar is the mean over the seeds of one model and memory mode. The band is their range, the whisker their
standard deviation.

A run with **causal: false** saw the characters that it was to predict. Such runs form groups of their own, and their
perplexity is not comparable. A run without *causal* has not finished.

Figures to quote, with intervals and n-gram baselines, come from `python -m hrm_bench.report`.
"""


def workspace(*, entity: str, project: str, experiment: str = "") -> ws.Workspace:
    """Return the workspace of a project, or of one of its experiments, without saving it; needs no network."""
    varying = [ws.Config(key) for key in ("model.name", "memory.mode", *varying_keys(experiment))]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"{experiment or 'All experiments'}: model, memory, seed",
        sections=sections(),
        settings=ws.WorkspaceSettings(max_runs=MAX_RUNS),
        runset_settings=ws.RunsetSettings(
            filters=f"Metric('Group') == '{experiment}'" if experiment else "",
            groupby=[*([] if experiment else [ws.Metric("Group")]), *varying, ws.Summary("causal")],
            order=[ws.Ordering(ws.Summary("validation/perplexity"))],
            pinned_columns=list(COLUMNS),
        ),
    )


def varying_keys(experiment: str) -> list[str]:
    """Return the config keys, besides model, memory and seed, that a shipped experiment varies."""
    path = conf_folder() / "experiment" / f"{experiment}.yaml"
    sweeper = OmegaConf.select(OmegaConf.load(path), "hydra.sweeper", default={}) if path.is_file() else {}
    cases = itertools.chain(*sweeper.get("cases", ()))
    swept = [*sweeper.get("params", ()), *(str(word).partition("=")[0] for word in cases)]
    searched = [f"recipe.{key}" for key in OmegaConf.select(OmegaConf.create(sweeper), "search.space", default={})]
    keys = [f"{key}.name" if key == "recipe" else key for key in swept if key not in ("model", "memory", "seed")]
    return list(dict.fromkeys(keys + searched))


def sections() -> list[ws.Section]:
    """Return the panels: runs by epoch, their best epoch, cost, each seed, memory. A run's step is its epoch."""
    over_seeds: dict[str, Any] = {"groupby_aggfunc": "mean", "max_runs_to_show": MAX_RUNS}
    line = partial(wr.LinePlot, **over_seeds, groupby_rangefunc="minmax", x="Step", title_x="epoch")
    bar = partial(wr.BarPlot, **over_seeds, groupby_rangefunc="stddev", max_bars_to_show=MAX_RUNS)
    model, memory, seed = (wr.Config(key) for key in ("model.name", "memory.mode", "seed"))
    causal, perplexity = wr.SummaryMetric("causal"), wr.SummaryMetric("validation/perplexity")
    axes = [wr.ParallelCoordinatesPlotColumn(metric) for metric in (model, memory, causal, seed, perplexity)]
    curve: dict[str, Any] = {"y": ["epoch/validation_perplexity"], "log_y": True}
    panels: dict[str, list[Any]] = {
        "How to read it": [wr.MarkdownPanel(markdown=READING)],
        "Validation by epoch": [
            line(title="Validation perplexity per character", **curve),
            line(title="Validation, nats per character", y=["epoch/validation_nll"]),
            line(title="Training, nats per character", y=["epoch/train_nll"]),
        ],
        "Best epoch": [
            bar(title="Validation perplexity per character", metrics=["validation/perplexity"]),
            bar(title="Test perplexity per character", metrics=["test/perplexity"]),
            bar(title="Validation, bits per character", metrics=["validation/bits_per_character"]),
            bar(title="Test, bits per character", metrics=["test/bits_per_character"]),
        ],
        "Cost": [
            bar(title="Parameters", metrics=["parameters"]),
            bar(title="Characters per second in training", metrics=["characters_per_second"]),
            line(title="Validation perplexity by time", x="epoch/seconds", title_x="seconds of training", **curve),
        ],
        "Seeds": [
            wr.ParallelCoordinatesPlot(title="Each seed", columns=axes),
            wr.ScatterPlot(title="Validation perplexity by seed", x=seed, y=perplexity, log_y=True),
        ],
        "Memory": [
            line(title="Weight that the gates give to the memory", y=["epoch/memory_share"]),
            line(title="Norm of the memory's matrix", y=["epoch/memory_norm"]),
        ],
    }
    layout = ws.SectionLayoutSettings(columns=2)
    return [ws.Section(name, panels=group, is_open=True, layout_settings=layout) for name, group in panels.items()]


def faults(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield one line if the experiment's name cannot stand in a filter of W&B, which has no escapes."""
    if not re.fullmatch(r"[\w. -]*", values["experiment"]):
        yield f"experiment={values['experiment']}: may contain letters, digits, blanks and . _ - only"


def main(words: list[str]) -> int:
    """Save the workspace and print its URL; only this needs a login."""
    if {"-h", "--help"} & set(words):
        print(__doc__)
        return 0
    values = cli.parse(words, KEYS, faults)
    login = wandb.setup(settings=wandb.Settings(mode="online", silent=True)).settings
    if not wandb.login(prompt=False, verify=False):
        raise UsageError(f"no login for W&B's server {login.base_url}: run wandb login, or set WANDB_API_KEY")
    if not network.is_reachable(login.base_url):
        raise UsageError(f"W&B's server {login.base_url} does not answer; nothing is saved")
    entity = values["entity"] or login.entity or wandb.Api().default_entity
    if not entity:
        raise UsageError("entity: the login has no default one; give entity=NAME")
    try:
        saved = workspace(entity=entity, project=values["project"], experiment=values["experiment"]).save()
    except Exception as error:  # W&B raises many kinds, most of them for a wrong name
        message = " ".join(str(error).split())
        raise UsageError(f"project={values['project']}: W&B did not save the workspace: {message}") from error
    print(f"Saved: {saved.url}")
    return 0


if __name__ == "__main__":
    cli.run(main)
