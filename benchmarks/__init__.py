"""kneelake side by side with other tools: speed with the accuracy beside it, in one run.

`python -m benchmarks` runs every module here that has a `run() -> None`; each prints Markdown.
Times are CPU seconds of one process; compilation is reported apart.
"""
