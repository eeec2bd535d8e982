"""Metrics, records, runner, leaderboard. Reaches methods only through the registry."""
