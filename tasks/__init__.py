"""One folder per phase of the loop: design, dispatch, execute, measure, analyze, store.

In each folder `step.py` holds the Prefect task wrappers and nothing else; all other modules are plain Python.
"""
