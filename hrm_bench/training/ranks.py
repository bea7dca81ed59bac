"""Several processes that train one cell: ``trainer.devices`` ranks of this machine, under Lightning's DDP.

Rank 0 is the cell's own process: it alone writes. The others are started from the cell's folder, train with it, and end
with the training. Each takes its lanes of every batch, so that together they take the steps that one process would.

``python -m hrm_bench.training.ranks FOLDER RANK PORT`` is a rank; ``together`` starts it.
"""

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.distributed
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from omegaconf import DictConfig, OmegaConf

from hrm_bench import cli
from hrm_bench.data import corpora
from hrm_bench.records.store import CONFIG_FILE
from hrm_bench.training.build import load_windows
from hrm_bench.training.fit import fit
from hrm_bench.training.recorder import Recorder
from hrm_bench.training.stopping import Stopped, StopSignal

SECONDS_TO_END = 30.0


class RankEnvironment(LightningEnvironment):
    """Lightning's environment of one of several processes of this machine, all of which have been started already."""

    def __init__(self, rank: int, num_ranks: int, port: int) -> None:
        super().__init__()
        self._rank = rank
        self._num_ranks = num_ranks
        self._port = port

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return "127.0.0.1"

    @property
    def main_port(self) -> int:
        return self._port

    def world_size(self) -> int:
        return self._num_ranks

    def global_rank(self) -> int:
        return self._rank

    def local_rank(self) -> int:
        return self._rank

    def node_rank(self) -> int:
        return 0


@contextlib.contextmanager
def together(num_ranks: int, folder: Path) -> Iterator[RankEnvironment | None]:
    """Run the other ranks of a cell while it lasts, if there are any; give this process its environment as rank 0."""
    if num_ranks == 1:
        yield None
        return
    port = _free_port()
    others: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(1, num_ranks):
            with (folder / f"log-rank{rank}.txt").open("w") as log:
                words = [sys.executable, "-m", "hrm_bench.training.ranks", str(folder), str(rank), str(port)]
                others.append(subprocess.Popen(words, stdout=log, stderr=log))
        yield RankEnvironment(0, num_ranks, port)
        for process in others:
            process.wait(timeout=SECONDS_TO_END)
    finally:
        for process in others:
            process.kill()
            process.wait()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def main(words: Sequence[str]) -> int:
    """Train with the other ranks, as a rank above 0: in a cell's folder, by its number, to a port."""
    folder, rank, port = Path(words[0]), int(words[1]), int(words[2])
    cfg = OmegaConf.load(folder / CONFIG_FILE)
    assert isinstance(cfg, DictConfig)
    torch.set_num_threads(cfg.trainer.num_threads)
    corpus = corpora.load(cfg.data)
    stop = StopSignal.of_process()
    with stop.listening(), contextlib.suppress(Stopped):  # rank 0 stops as well, and reports it
        fit(
            cfg,
            folder,
            Recorder(folder),
            load_windows(cfg, corpus),
            corpus=corpus,
            stop=stop,
            environment=RankEnvironment(rank, cfg.trainer.devices, port),
            compiled=cfg.trainer.compile == "always",
        )
    return 0


if __name__ == "__main__":
    cli.run(main)
