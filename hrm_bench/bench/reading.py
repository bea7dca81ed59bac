"""Reading a long text, in a stream with the memory handed on, or at once by a transformer that attends to all of it.

``python -m hrm_bench.bench.reading DEVICE WINDOWS key=value ...`` reads one in a process of its own and prints how
many bytes that took on top of the built model. The text is random, drawn as it is read: the cost does not depend on it.
"""

import sys

import torch
from omegaconf import DictConfig

from hrm_bench.cells import scoring
from hrm_bench.charlm import CharLM
from hrm_bench.config.compose import compose
from hrm_bench.data.vocabulary import CHARACTERS
from hrm_bench.training.build import build

AT_ONCE = "transformer"  # reads the text in one pass; every other model goes from window to window


def reader(cfg: DictConfig, device: str) -> CharLM:
    """The model that reads, untrained."""
    return build(cfg).to(device).eval()


@torch.no_grad()
def read(model: CharLM, num_windows: int) -> None:
    """Read so many of the model's windows, one lane, each after the memory that those before it have left."""
    memory = model.initial_memory(1)
    for _ in range(num_windows):
        text = torch.randint(len(CHARACTERS), (1, model.window), device=model.device)
        _, memory = model(text, memory)


def words(model: str, num_windows: int, window: int) -> tuple[int, list[str]]:
    """How many windows a model takes a text of ``num_windows`` windows for, and what its config says."""
    if model == AT_ONCE:
        return 1, [f"data.window={num_windows * window}"]
    return num_windows, ["memory=carry"]


def main(given: list[str]) -> None:
    """Read, and print the bytes: of the process on a CPU, of the allocator on a GPU."""
    device, num_windows, *overrides = given
    torch.set_num_threads(1)
    model = reader(compose(*overrides), device)
    scoring._reset_peak_memory()
    before = scoring._peak_memory(model.device)
    read(model, int(num_windows))
    print(scoring._peak_memory(model.device) - before)


if __name__ == "__main__":
    main(sys.argv[1:])
