"""The papers' experiments: declared as records, run by the ordinary loop, drawn from their logs by pure functions."""
