"""The codec: compresses and decompresses video, and measures the result.

Owns frames, scenes, strategies, the .evc bitstream and the quality formulas. Knows nothing of Prefect, language models,
AWS or the store: it can be used alone.
"""
