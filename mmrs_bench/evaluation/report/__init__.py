"""Reports from records: statistics, tables, leaderboard, curves, maps."""
