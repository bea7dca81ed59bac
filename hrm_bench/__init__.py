"""hrm_bench: hierarchical, recurrent and memory-augmented character models, compared so that it can be trusted.

In a notebook: ``cfg = hrm_bench.compose("model=hrm", "seed=3")``, then ``model = hrm_bench.build(cfg)``; of what has
run, ``cells, history = hrm_bench.load("multirun")``. In a test-suite: ``hrm_bench.assert_causal(model, 256)``.
Of scores per seed that were made elsewhere: ``print(hrm_bench.compare(ours, theirs))``.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hrm_bench.causal import assert_causal
    from hrm_bench.comparison import compare
    from hrm_bench.config.compose import compose
    from hrm_bench.records.tidy import load
    from hrm_bench.training.build import build

__all__ = ["assert_causal", "build", "compare", "compose", "load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import on first use, so that ``import hrm_bench`` alone does not load PyTorch."""
    if name == "assert_causal":
        from hrm_bench.causal import assert_causal

        return assert_causal
    if name == "compare":
        from hrm_bench.comparison import compare

        return compare
    if name == "compose":
        from hrm_bench.config.compose import compose

        return compose
    if name == "build":
        from hrm_bench.training.build import build

        return build
    if name == "load":
        from hrm_bench.records.tidy import load

        return load
    raise AttributeError(f"module 'hrm_bench' has no attribute '{name}'")
