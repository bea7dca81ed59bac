"""``python -m hrm_bench.audit``: does a model of the bench, or of anyone, see what it is to predict?"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hrm_bench import cli
from hrm_bench.cli import Key
from hrm_bench.errors import UsageError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from hrm_bench.charlm import CharLM

LENGTH = 128  # unless a model of transformers reads fewer
RUN = {"run": Key("the folder of a finished cell, whose trained model is audited", shown="FOLDER")}
FOREIGN = {  # what a model of anyone is given by
    "module": Key("a model, or a function that gives one", default="", shown="PACKAGE.FILE:NAME"),
    "hf": Key("a causal language model as transformers saves it", default="", shown="FOLDER"),
    "vocabulary": Key("how many tokens the model of module=... knows", int, 0, shown="N"),
    "length": Key("the most characters of a text that is tried", int, LENGTH, at_least=1),
    "output": Key("what the model gives: logits or probabilities", default="logits"),
    "predicts": Key("next: output i predicts character i + 1; same: it predicts character i, unseen", default="next"),
    "seed": Key("another seed tries other texts", int, 0),
}
HELP = cli.Help(
    name="audit",
    words="[--config-dir FOLDER] [key=value ...], or run=FOLDER, or module=FILE:NAME vocabulary=N, or hf=FOLDER",
    arguments={
        "key=value": "as in python -m hrm_bench; the model is audited before any training",
        "FOLDER": "configs of your own, beside conf/",
        **cli.arguments(RUN),
        **cli.arguments(FOREIGN),
    },
    example="model=infini_hrm memory=carry",
)


def main(words: list[str]) -> int:
    """Print the audits of an untrained or a trained model, or that of a foreign one; return 1 if it is not causal."""
    trained = any(word.startswith("run=") for word in words)
    if not trained and any(word.startswith(("module=", "hf=")) for word in words):
        has_length = any(word.startswith("length=") for word in words)
        return _audit_foreign(cli.parse(words, FOREIGN, check=_faults), has_length=has_length)
    from hrm_bench.evidence.causality import is_causal, leak, windows_to_audit
    from hrm_bench.evidence.coverage import gradient_coverage

    cfg, model = _trained(words) if trained else _untrained(words)
    measured = leak(model, num_windows=windows_to_audit(model, cfg.data.windows_per_sample))
    causal = is_causal(measured)
    print(
        f"{cfg.model.name}: {'causal' if causal else 'NOT CAUSAL'}: a later character changes a logit by at most "
        f"{measured['perturbation']:.1e}, and a logit's gradient in its embedding is at most {measured['gradient']:.1e}"
    )
    cli.print_table(
        "",
        ["component", "losses that reach it"],
        [[component, " and ".join(losses) or "none"] for component, losses in gradient_coverage(model).items()],
        text_columns={"component", "losses that reach it"},
    )
    return 0 if causal else 1


def _untrained(words: list[str]) -> "tuple[DictConfig, CharLM]":
    from hrm_bench.config.compose import compose
    from hrm_bench.training.build import build

    cfg = compose(*words)
    return cfg, build(cfg)


def _trained(words: list[str]) -> "tuple[DictConfig, CharLM]":
    from hrm_bench.cells.reopen import load_cell
    from hrm_bench.config.compose import completed
    from hrm_bench.records import store

    if others := [word for word in words if not word.startswith("run=")]:
        raise UsageError(
            *(f"{word}: goes with a config's words or with module=..., not with run=FOLDER" for word in others)
        )
    folder = Path(cli.parse(words, RUN)["run"])
    model = load_cell(folder, causal=False).eval()
    record = store.read(folder)
    assert record is not None  # or the model could not be loaded
    return completed(record["config"]), model


def _faults(options: Mapping[str, Any]) -> Iterable[str]:
    if options["module"] and options["hf"]:
        yield "module, hf: give one of them"
    if options["module"] and not options["vocabulary"]:
        yield "vocabulary: must be given; vocabulary=256 for a model of bytes"


def _audit_foreign(options: Mapping[str, Any], *, has_length: bool) -> int:
    from hrm_bench.causal import audit, loading

    settings = {name: options[name] for name in ("vocabulary", "length", "output", "predicts", "seed")}
    if options["hf"]:
        model = loading.Pretrained(Path(options["hf"]))
        settings["vocabulary"] = settings["vocabulary"] or model.vocabulary
        if model.longest and settings["length"] > model.longest:
            if has_length:
                raise UsageError(f"length={settings['length']}: the model reads at most {model.longest} tokens")
            settings["length"] = model.longest
        report = audit(model, **settings)
    else:
        report = audit(loading.from_module(options["module"]), **settings)
    print(report)
    return 0 if report.is_causal else 1


if __name__ == "__main__":
    cli.run(main, HELP)
