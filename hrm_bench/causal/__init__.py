"""Audit of the causality of any language model: does an output see what it is to predict?

This room needs PyTorch and, of this package, ``errors`` only. ``docs/audit.md`` describes the conditions.
"""

from hrm_bench.causal.audit import assert_causal, audit
from hrm_bench.causal.report import CONDITIONS, Finding, NotCausal, Report

__all__ = ["CONDITIONS", "Finding", "NotCausal", "Report", "assert_causal", "audit"]
