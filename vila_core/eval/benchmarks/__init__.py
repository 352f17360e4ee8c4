"""The benchmarks, one module each, with a `BENCHMARK` in it."""
