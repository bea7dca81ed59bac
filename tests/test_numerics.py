"""Portable arithmetic is in force where it was asked for, is part of a cell's identity, and is never half had."""

import os

import pytest
import torch
from commands import hrm_bench
from conftest import compose

from hrm_bench import numerics
from hrm_bench.config.identity import identity
from hrm_bench.errors import UsageError
from hrm_bench.records import store

TINY = ("model=lstm", "model.width=8", "data=sample", "data.train_chars=2000", "recipe.max_epochs=1", "logger=none")
HAS_AVX2 = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


@pytest.mark.skipif(not HAS_AVX2, reason="this CPU has no AVX2")
@pytest.mark.parametrize("words", [("trainer.numerics=portable",), ("trainer.numerics=fast,portable",)])
def test_a_command_computes_with_portable_instructions_or_refuses_to_mix_them(words, tmp_path):
    done = hrm_bench("-m", *TINY, *words, "hydra.sweep.dir=out", cwd=tmp_path, forked=False)
    if "fast" in words[0]:
        assert done.returncode == 2
        assert "trainer.numerics=fast,portable: one command computes in one way" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    (record,) = store.read_all(tmp_path / "out")
    assert record["versions"]["cpu"] == "AVX2"
    assert record["config"]["trainer"]["numerics"] == "portable"


def test_a_process_that_began_otherwise_is_told_what_it_needs(monkeypatch):
    for name in numerics.PORTABLE:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match="begin this one with ATEN_CPU_CAPABILITY=avx2 MKL_CBWR=COMPATIBLE"):
        numerics.check()


def test_words_that_ask_for_it_set_the_environment_before_pytorch_is_loaded(monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    numerics.prepare(["model=hrm"])
    assert not numerics.are_portable()
    numerics.prepare(["model=hrm", "trainer.numerics=portable"])
    assert numerics.are_portable()


def test_portable_cells_are_other_cells_and_cannot_be_compiled():
    fast, portable = (compose("data=sample", f"trainer.numerics={value}") for value in ("fast", "portable"))
    assert identity(fast, "text") != identity(portable, "text")
    with pytest.raises(UsageError, match=r"trainer.compile=always: .* trainer.numerics=portable needs never"):
        compose("data=sample", "trainer.numerics=portable", "trainer.compile=always")
