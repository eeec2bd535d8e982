"""``mmrs-bench doctor``: what this machine has, whether every module works on it, and how fast."""
