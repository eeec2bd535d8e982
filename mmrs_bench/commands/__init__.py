"""What each command of the console script does; imported by `mmrs_bench.cli` when the command is called."""
