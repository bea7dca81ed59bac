"""Weights to give away: the finished cells of a sweep, each with its record, its config and its weights as safetensors.

Such a folder is read as the sweep's own is: ``generate``, ``evaluate`` and ``audit`` take it.
"""

from pathlib import Path

from omegaconf import OmegaConf
from safetensors.torch import save

from hrm_bench.cells import reopen
from hrm_bench.errors import UsageError
from hrm_bench.records import archive, store
from hrm_bench.report.card import CARD_FILE, CARD_TITLE


def release(sweep: Path, target: Path) -> tuple[int, int]:
    """Write the causal cells of a sweep into another folder; return their number, and how many were left out.

    Raises UsageError if there are none, if one has no weights, or if the target is no folder for them.
    """
    if not sweep.is_dir():
        raise UsageError(f"{sweep}: no such folder; give the folder of a sweep")
    records = [record for record in store.read_all(sweep) if store.is_finished(record)]
    folders = [next(sweep.glob(f"*-{record['identity']}")) for record in records if record["causal"]]
    if not folders:
        raise UsageError(f"{sweep}: no finished causal cells here; give the folder of a sweep")
    _check(target, {folder.name for folder in folders})
    models = {folder: reopen.load_cell(folder) for folder in folders}
    for folder, model in models.items():
        record, there = store.read_json(folder / store.RECORD_FILE), target / folder.name
        if (known := store.read(there)) is not None and known["validation"] != record["validation"]:
            raise UsageError(f"{there}: is there already, with other scores; give another folder")
        there.mkdir(parents=True, exist_ok=True)
        content = archive.without_paths(record)
        with store.replacing(there / reopen.RELEASED_FILE) as file:
            file.write(save({name: value.contiguous() for name, value in model.state_dict().items()}))
        OmegaConf.save(OmegaConf.create(content["config"]), there / store.CONFIG_FILE)
        store.write_json(there / store.RECORD_FILE, content)  # last: with it, the cell counts
    return len(models), len(records) - len(models)


def _check(target: Path, names: set[str]) -> None:
    """Raise UsageError if a folder has anything that is not of these cells, or cannot be one."""
    if target.is_file() or any(parent.is_file() for parent in target.parents):
        raise UsageError(f"{target}: a file, or in one; give a folder")
    if others := sorted(
        path.parent.name for path in target.glob(f"*/{store.RECORD_FILE}") if path.parent.name not in names
    ):
        raise UsageError(f"{target}: has other cells, such as {others[0]}; give another folder")
    card = target / CARD_FILE
    if card.exists() and not card.read_text(encoding="utf-8", errors="replace").startswith(CARD_TITLE):
        raise UsageError(f"{card}: is there already, and no card of weights; give another folder")
