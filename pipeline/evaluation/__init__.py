"""How good the masks are: metrics, simpler answers to compare with, benchmarks, plots, the ablation."""
