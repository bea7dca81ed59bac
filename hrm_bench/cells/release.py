"""Weights to give away: the finished cells of a sweep, each with its record, its config and its weights as safetensors.

Such a folder is read as the sweep's own is: ``generate``, ``evaluate`` and ``audit`` take it.
"""

from pathlib import Path

from omegaconf import OmegaConf
from safetensors.torch import save

from hrm_bench.cells import reopen
from hrm_bench.errors import UsageError
from hrm_bench.records import archive, store


def release(sweep: Path, target: Path) -> int:
    """Write the causal cells of a sweep into another folder; return their number.

    Raises UsageError if there are none, if one has no weights, or if the target has one with other scores.
    """
    records = [record for record in store.read_all(sweep) if store.is_finished(record)] if sweep.is_dir() else []
    folders = [next(sweep.glob(f"*-{record['identity']}")) for record in records if record["causal"]]
    if not folders:
        raise UsageError(f"{sweep}: no finished causal cells here; give the folder of a sweep")
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
    return len(models)
