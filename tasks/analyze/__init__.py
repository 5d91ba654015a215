"""Analyze: what the records mean. BD-rate, verdicts, the leaderboard, summaries and the report."""
