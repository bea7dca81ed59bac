"""Several processes that train one cell: ``trainer.devices`` ranks of this machine, under Lightning's DDP.

Rank 0 is the cell's own process: it alone writes. The others are started from the cell's folder, train along, and end
with the training. Each takes its lanes of every batch, so that together they take the steps that one process would.

``python -m hrm_bench.training.ranks FOLDER`` is a rank; it is started by ``together``, not by hand.
"""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from lightning.pytorch.strategies import DDPStrategy
from omegaconf import DictConfig, OmegaConf

from hrm_bench.records.store import CONFIG_FILE

PATIENCE = timedelta(minutes=5)  # of a rank that waits for another; one that has died is noticed at once
SECONDS_TO_END = 30.0


def strategy(accelerator: str) -> DDPStrategy:
    """How gradients are averaged over ranks; parameters that no loss reaches are none of its business."""
    backend = "nccl" if accelerator == "gpu" else "gloo"
    return DDPStrategy(process_group_backend=backend, find_unused_parameters=True, timeout=PATIENCE)


@contextlib.contextmanager
def together(cfg: DictConfig, folder: Path) -> Iterator[None]:
    """While it lasts this process is rank 0 and the others run, if the config asks for more than one."""
    if cfg.trainer.devices == 1:
        yield
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0"}
    kept = dict(os.environ)
    others = []
    try:
        for rank in range(1, cfg.trainer.devices):
            with (folder / f"log-rank{rank}.txt").open("w") as told:
                command = [sys.executable, "-m", "hrm_bench.training.ranks", str(folder)]
                environment = kept | common | {"LOCAL_RANK": str(rank)}
                others.append(subprocess.Popen(command, env=environment, stdout=told, stderr=told))
        os.environ |= common | {"LOCAL_RANK": "0"}  # which Lightning takes for: the others are started already
        yield
        for each in others:
            each.wait(timeout=SECONDS_TO_END)
    finally:
        for each in others:
            each.kill()
            each.wait()
        os.environ.clear()
        os.environ.update(kept)
        _leave_group()


def _leave_group() -> None:
    import torch.distributed

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def main(words: list[str]) -> int:
    """Train along as a rank above 0."""
    import torch

    from hrm_bench.config.identity import memory_mode
    from hrm_bench.training import fit, stopping
    from hrm_bench.training.build import load_windows
    from hrm_bench.training.recorder import Recorder

    folder = Path(words[0])
    cfg = OmegaConf.load(folder / CONFIG_FILE)
    assert isinstance(cfg, DictConfig)
    torch.set_num_threads(cfg.trainer.num_threads)
    recorder = Recorder(folder, None, with_memory=memory_mode(cfg) != "none")
    with stopping.listening(), contextlib.suppress(stopping.Stopped):  # as rank 0 does, which tells
        fit.fit(cfg, folder, recorder, load_windows(cfg), marks={})
    return 0


if __name__ == "__main__":
    from hrm_bench.errors import command

    command(main)
