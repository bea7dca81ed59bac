"""The most memory that a cell has taken: of the process on a CPU, of PyTorch's allocator on a GPU."""

import logging
import resource
from pathlib import Path

import torch

log = logging.getLogger("hrm_bench")


def reset(accelerator: str) -> None:
    """Begin a new peak, so that a cell is not charged for cells that ran before it in this process."""
    if accelerator == "gpu":
        torch.cuda.reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        log.info("peak memory cannot be reset here: it is that of the process since its start")


def read(accelerator: str) -> int:
    """Return the peak in bytes."""
    if accelerator == "gpu":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists():
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, which has no /proc
