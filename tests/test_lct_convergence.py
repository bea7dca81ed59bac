"""Is LCT+OACD stopped before its head has learnt what there is to learn? The claim of models/lct.py, measured."""

import pytest
import torch
from torch.nn import functional

import hrm_bench
from hrm_bench.cells.run import cell_folder, run_cell
from hrm_bench.training.build import load_windows


def states_and_targets(model, samples):
    """What the head reads after the last segment of each window, and what it should say."""
    tokens, targets = samples[list(range(samples.num_windows))]
    with torch.no_grad():
        *_, last = model.refine(tokens, ())
    return torch.cat(last.state, dim=-1).flatten(0, 1), targets.flatten()


def fit(hidden, targets, scored, truth, *, bias, start):
    """The validation loss of a head that is fitted to the training states, without a bias until it has converged."""
    weight = start.detach().clone().requires_grad_()
    offset = torch.zeros(97, requires_grad=bias)
    optimizer = torch.optim.LBFGS(
        [weight, offset] if bias else [weight],
        max_iter=60 if bias else 200,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def loss():
        optimizer.zero_grad()
        value = functional.cross_entropy(hidden @ weight.T + offset, targets)
        value.backward()
        return value

    optimizer.step(loss)
    loss()
    assert bias or weight.grad.norm() < 1e-2
    return functional.cross_entropy(scored @ weight.T + offset, truth).item()


@pytest.mark.slow
def test_within_30_epochs_the_head_is_within_3_percent_of_one_fitted_until_it_converges(tmp_path):
    cfg = hrm_bench.compose("data=sample", "model=lct_1layer", "logger=none")
    record = run_cell(cfg, tmp_path)
    model, data = hrm_bench.build(cfg).eval(), load_windows(cfg)
    model.load_state_dict(torch.load(cell_folder(cfg, tmp_path) / "best.ckpt", weights_only=True)["state_dict"])
    (hidden, targets), (scored, truth) = (states_and_targets(model, split) for split in (data.train, data.validation))
    trained = functional.cross_entropy(model.head(scored), truth).item()
    assert trained == pytest.approx(record["validation"]["nll"], abs=1e-5)

    fitted, with_bias = (
        fit(hidden, targets, scored, truth, bias=bias, start=model.head.weight) for bias in (False, True)
    )
    print(f"head as trained {trained:.3f}, fitted {fitted:.3f}, with a bias {with_bias:.3f} nats a character")
    assert trained < fitted * 1.03
    assert with_bias < fitted - 0.1  # what keeps LCT+OACD above the unigram counts is that its head has none
