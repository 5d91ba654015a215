"""Dispatch: what still has to be measured, and sending it to the work pool."""
