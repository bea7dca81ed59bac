"""Where there is nothing to learn but how frequent each character is, a model learns that, and no more."""

import math

import pytest
import torch
from conftest import trainer
from torch.utils.data import DataLoader

import hrm_bench
from hrm_bench.evidence.floors import unigram_nll
from hrm_bench.training.build import load_windows


def shuffled(samples, seed):
    """A text's windows with all targets of the text in a random order, in batches of 16."""
    tokens, targets = samples[list(range(samples.num_windows))]
    order = torch.randperm(targets.numel(), generator=torch.Generator().manual_seed(seed))
    targets = targets.flatten()[order].view_as(targets)
    return list(zip(tokens.split(16), targets.split(16), strict=True))


@pytest.mark.parametrize("words", [["model=hrm"], ["model=infini_hrm", "memory=carry"]], ids=" ".join)
def test_a_model_trained_on_shuffled_targets_lands_at_the_unigram_floor_and_not_under_it(words):
    cfg = hrm_bench.compose("data=sample", *words)
    model, data = hrm_bench.build(cfg), load_windows(cfg)
    train, validation = shuffled(data.train, 0), shuffled(data.validation, 1)
    # As one who reads the targets alone would count them.
    counted = torch.cat([targets.flatten() for _, targets in train])
    floor = math.exp(unigram_nll(counted, torch.cat([targets.flatten() for _, targets in validation])))
    loaders = [DataLoader(batches, batch_size=None) for batches in (train, validation)]
    perplexities = []
    for _ in range(5):
        trainer(max_epochs=1, limit_val_batches=0).fit(model, loaders[0])
        trainer().validate(model, loaders[1], verbose=False)
        perplexities.append(math.exp(float(model.nll.compute())))
    print(words, floor, perplexities)
    assert min(perplexities) == pytest.approx(floor, rel=0.03)
    assert min(perplexities) > 0.995 * floor
