"""What the benchmarks share: processes of their own, limits of the machine, cases, one checkpoint for all sides."""
