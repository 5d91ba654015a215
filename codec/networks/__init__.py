"""Networks that a decoder runs, all in integer arithmetic that is exact, so that every machine decodes the same pixels.

Nothing here is imported before a strategy that needs it is used: torch takes over a second to load.
"""
