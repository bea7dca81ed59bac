"""``python -m hrm_bench``: train one cell, or with ``-m`` a sweep of cells; or run the command that comes first."""

import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from hrm_bench import cli
from hrm_bench.config.compose import COMPOSITION_ERRORS, check, config_dir, explain, not_searched, unchecked
from hrm_bench.config.words import check_command, conf_folder, groups, understood
from hrm_bench.errors import UsageError
from hrm_bench.numerics import prepare

if TYPE_CHECKING:
    from hrm_bench.records.schema import Record

USAGE = """\
hrm_bench: hierarchical, recurrent and memory-augmented character models, compared so that it can be trusted

  python -m hrm_bench                                               train one HRM
  python -m hrm_bench model=hrm,infini_hrm memory=reset,carry -m    sweep every combination
  python -m hrm_bench -m experiment=hrm_vs_lct launcher=joblib      a published experiment, on every core
"""
DISK_HINT = "choose another folder with hydra.run.dir=FOLDER, or hydra.sweep.dir=FOLDER for a sweep"
INTERRUPTED = "interrupted; type the same command again to continue"


@hydra.main(config_path=str(conf_folder()), config_name="config", version_base="1.3")
def launch(cfg: DictConfig) -> "Record | None":
    """Run one cell: the only one of a command, or one job of a sweep, which prints for all its cells."""
    from hrm_bench.cells.run import run_cell

    hydra_config = HydraConfig.get()
    root = Path(hydra_config.runtime.output_dir)
    if hydra_config.mode == RunMode.MULTIRUN:
        check(cfg)  # converts its values to their types, as the sweep's plan does
        return run_cell(cfg, root, hydra_config.overrides.task)

    from hrm_bench import train
    from hrm_bench.sweeps import sweep

    def train_one(words: list[str]) -> int:
        if (launcher := hydra_config.runtime.choices.get("launcher")) not in ("serial", None):
            raise UsageError(
                f"launcher={launcher}: runs the cells of a sweep, which takes -m: python -m hrm_bench -m ..."
            )
        cell = sweep.plan(cfg, words, root)
        if note := not_searched(cfg):
            print(note, file=sys.stderr)
        if lists := [key for key in ("params", "cases", "search") if hydra_config.sweeper.get(key)]:
            kind = "a search" if "search" in lists else "a sweep"
            name = cfg.experiment.name
            print(f"experiment={name} declares {kind}; without -m only this one cell is trained", file=sys.stderr)
        return train.run_cells([cell], root, lambda cells, stop: [run_cell(cells[0], stop=stop)])

    # It ends here, since Hydra adds a line of its own to an error that leaves a job.
    cli.run(train_one, words=hydra_config.overrides.task, disk_hint=DISK_HINT, interrupted=INTERRUPTED)


def help_text(words: list[str]) -> str:
    """Return what ``--help`` shows: the commands, the config groups, and the config that the words compose.

    Hydra's own help takes three times as long, since it copies its schemas for every group.
    """
    cfg = unchecked(*(word for word in words if not word.startswith("-") or word.startswith("--config-dir")))
    choices = "\n".join(f"  {group}: {', '.join(names)}" for group, names in groups().items())
    return (
        f"{USAGE}\n{cli.command_list()}\n\nGroups and their choices (compose with group=choice):\n{choices}\n\n"
        f"Every value, with its default (override with key=value):\n\n{OmegaConf.to_yaml(cfg)}"
    )


def compose_and_train(words: list[str]) -> int:
    """Train what Hydra composes from the words. Raises UsageError."""
    # Hydra takes options before or after the overrides, not among them.
    folder, words = config_dir(words)
    options = [] if folder is None else [f"--config-dir={folder}"]
    sys.argv[1:] = [*options, *sorted(words, key=lambda word: word not in ("-m", "--multirun"))]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here, where each becomes one line
    if {"-h", "--help"} & set(words):
        print(help_text(words))
        return 0
    sys.argv[1:] = [word if word.startswith("-") else understood([word])[0] for word in sys.argv[1:]]
    check_command(sys.argv[1:])
    prepare(sys.argv[1:])
    try:
        launch()
    except COMPOSITION_ERRORS as error:
        raise UsageError(explain(error)) from error
    return 0


def main() -> None:
    """Run the command that the first word names, or train; see ``cli.run`` for the exit status."""
    name, *words = sys.argv[1:] or [""]
    if name in cli.COMMANDS:
        module = "hrm_bench.report.__main__" if name == "report" else f"hrm_bench.{name}"
        command = importlib.import_module(module)
        cli.run(command.main, getattr(command, "HELP", None), words)
    cli.run(compose_and_train, disk_hint=DISK_HINT, interrupted=INTERRUPTED)


if __name__ == "__main__":
    main()
