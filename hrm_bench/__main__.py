"""``python -m hrm_bench``: compose one cell, or with ``-m`` a sweep of them, and run."""

import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from hrm_bench.config import COMPOSITION_ERRORS, conf_folder
from hrm_bench.errors import UsageError, end_quietly, explain, stop


@hydra.main(config_path=str(conf_folder()), config_name="config", version_base="1.3")
def launch(cfg: DictConfig) -> None:
    """Run one cell: as a command of its own, or as a job of a sweep, which shows and tells for all its cells."""
    from hrm_bench import run, sweep
    from hrm_bench.progress import Display

    hydra_config = HydraConfig.get()
    root = Path(hydra_config.runtime.output_dir)
    if hydra_config.mode == RunMode.MULTIRUN:
        run.run_cell(cfg, root)
        return
    try:
        cell = sweep.plan(cfg, (), root)
    except UsageError as error:  # told here, since Hydra adds a line of its own to what leaves a job
        stop(error)
    finished = sweep.is_finished(cell)
    with Display([] if finished else [sweep.watched(cell)], num_skipped=int(finished)):
        run.run_cell(cfg, root)
    sweep.conclude([cell.folder], root=root)


def main() -> None:
    """Exit status 0, 1 where a cell failed, 2 where the request cannot be met, 130 where it was interrupted."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here, to be told in one line
    # Hydra takes -m before or after the overrides, not among them.
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda argument: argument not in ("-m", "--multirun"))
    try:
        launch()
    except UsageError as error:
        stop(error)
    except COMPOSITION_ERRORS as error:
        stop(UsageError(explain(error)))
    except ValueError as error:  # Hydra's word for group=3; any other is a fault of ours
        if not str(error).startswith("Config group override"):
            raise
        stop(UsageError(explain(error)))
    except BrokenPipeError:
        end_quietly()
    except OSError as error:
        if error.filename is None:
            raise
        fault = f"{error.filename}: cannot be written ({error.strerror}); choose another folder"
        stop(UsageError(f"{fault} with hydra.run.dir=FOLDER, or hydra.sweep.dir=FOLDER for a sweep"))
    except KeyboardInterrupt:
        print("interrupted; the same command goes on with the cells that are not finished", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
