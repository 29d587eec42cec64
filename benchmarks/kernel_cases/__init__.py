"""What `benchmarks/kernels.py` runs and compiles, a module for each group of kernels."""
