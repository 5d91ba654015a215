"""Runs a candidate's two agents in processes of their own, and says what came of it. Scoring is `tasks.measure`'s."""
