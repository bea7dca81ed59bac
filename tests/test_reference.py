"""The package's models and objectives against the reference: losses, gradients and evaluation."""

import pytest
import torch
from conftest import MODELS, SMALL, compose, fitting, random_batch
from reference.layers import MatrixMemory, PairMemory
from reference.training import has_reference, reference

import hrm_bench
from benchmarks.implementations import score
from hrm_bench.training.bare import without_trainer

WITH_REFERENCE = [name for name in MODELS if has_reference(compose("data=sample", f"model={name}"))]


@pytest.mark.parametrize("name", WITH_REFERENCE)
def test_a_model_trains_and_evaluates_as_its_reference_does(name):
    config = compose(*fitting(*SMALL, f"model={name}"))
    model = hrm_bench.build(config).double()
    naive = reference(config, dict(model.named_parameters()))
    batch = random_batch(3, 8)
    train_model = without_trainer(model)
    trainings = (lambda batch: train_model(batch).losses[-1], lambda batch: naive.train(*batch))
    for _ in range(2):  # the second loss shows what the first step of the optimizer did
        losses = []
        for train in trainings:
            torch.manual_seed(1)  # LCT draws its states
            losses.append(train(batch))
        torch.testing.assert_close(*losses, atol=1e-9, rtol=0)
    gradients, expected = (
        {name: parameter.grad for name, parameter in parameters if parameter.grad is not None}
        for parameters in (model.named_parameters(), naive.model.parameters.items())
    )
    assert gradients.keys() == expected.keys()
    for parameter, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[parameter], atol=1e-9, rtol=0)
    torch.testing.assert_close(score(model.eval(), batch), naive.score(*batch), atol=1e-9, rtol=0)


def test_every_architecture_of_the_package_has_a_reference():
    of_reports = {"hrm", "hrm_memory", "infini_hrm", "lct_2layer"}
    controls = {"gated_delta_net", "lstm", "transformer", "transformer_xl", "trm", "trm_one_step", "ut"}
    assert of_reports | controls <= set(WITH_REFERENCE)


@pytest.mark.parametrize("rule", ["linear", "delta"])
def test_both_forms_of_the_reference_memory_answer_alike(rule):
    torch.manual_seed(0)
    pairs, matrix = PairMemory(), MatrixMemory(2, 3, 4, like=torch.zeros((), dtype=torch.float64))
    queries = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    for _ in range(3):
        window = torch.randn(2, 2, 3, 5, 4, dtype=torch.float64)
        for memory in (pairs, matrix):
            memory.last = tuple(window)
            memory.commit(rule)
        torch.testing.assert_close(pairs.answer(queries), matrix.answer(queries))
    assert matrix.answer(queries).abs().max() > 1e-3
