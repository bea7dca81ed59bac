"""How fast the bench is, against plain code, peers and the machine: ``python -m hrm_bench.bench``."""
