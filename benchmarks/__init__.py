"""How fast Docker kernels are, as ratios to what they could be: `python -m benchmarks` (docs/benchmarks.md)."""
