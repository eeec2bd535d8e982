"""Commands of the console script. `mmrs_bench.cli` imports a command when it is called."""
