"""Is LCT+OACD stopped before its head has learnt what there is to learn? The claim of models/lct.py, measured."""

import pytest
import torch
from torch.nn import functional

import hrm_bench
from hrm_bench.run import cell_folder, load_windows, run_cell


def states_and_targets(model, samples):
    """What the head reads after the last segment of each window, and what it should say."""
    tokens, targets = samples[list(range(samples.num_windows))]
    with torch.no_grad():
        *_, last = model.refine(tokens, ())
    return torch.cat(last.state[:-1], dim=-1).flatten(0, 1), targets.flatten()


@pytest.mark.parametrize("name", ["lct_1layer", "lct_2layer"])
def test_within_30_epochs_the_head_is_within_3_percent_of_one_fitted_until_it_converges(name, tmp_path):
    cfg = hrm_bench.compose("data=sample", f"model={name}", "logger=none")
    record = run_cell(cfg, tmp_path)
    model, data = hrm_bench.build(cfg).eval(), load_windows(cfg)
    model.load_state_dict(torch.load(cell_folder(cfg, tmp_path) / "best.ckpt", weights_only=True)["state_dict"])
    (hidden, targets), (scored, truth) = (states_and_targets(model, split) for split in (data.train, data.validation))
    trained = functional.cross_entropy(model.head(scored), truth).item()
    assert trained == pytest.approx(record["validation"]["nll"], abs=1e-5)

    head = model.head.weight.detach().clone().requires_grad_()
    optimizer = torch.optim.LBFGS([head], max_iter=200, history_size=20, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = functional.cross_entropy(hidden @ head.T, targets)
        value.backward()
        return value

    optimizer.step(loss)
    gradient = torch.autograd.grad(functional.cross_entropy(hidden @ head.T, targets), head)[0]
    assert gradient.norm() < 1e-2  # it has converged
    fitted = functional.cross_entropy(scored @ head.T, truth).item()
    print(f"{name}: head as trained {trained:.3f}, fitted until it converged {fitted:.3f} nats a character")
    assert trained < fitted * 1.03
