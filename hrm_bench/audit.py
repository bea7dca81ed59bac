"""``python -m hrm_bench.audit model=hrm``: does a logit see a later character, and which loss reaches which part?"""

from hrm_bench import cli

HELP = cli.Help(
    name="audit",
    words="[--config-dir FOLDER] [key=value ...]",
    arguments={
        "key=value": "as in python -m hrm_bench; the model is audited before any training",
        "FOLDER": "configs of your own, beside conf/",
    },
    example="model=infini_hrm memory=carry",
)


def main(words: list[str]) -> int:
    """Print both audits of an untrained model; return 1 if it is not causal."""
    from hrm_bench.config.compose import compose
    from hrm_bench.evidence.causality import is_causal, leak, windows_to_audit
    from hrm_bench.evidence.coverage import gradient_coverage
    from hrm_bench.training.build import build

    cfg = compose(*words)
    model = build(cfg)
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


if __name__ == "__main__":
    cli.run(main, HELP)
