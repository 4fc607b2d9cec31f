"""Benchmarks: one module for each row of the table of speeds, with the peers beside us in the same process and run."""
