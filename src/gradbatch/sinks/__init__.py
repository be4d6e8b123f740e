"""Where records go: a run log, a progress bar, and later the trackers people use."""

from gradbatch.sinks.base import Sink
from gradbatch.sinks.jsonl import JsonlSink, read_jsonl

__all__ = ["JsonlSink", "Sink", "read_jsonl"]
