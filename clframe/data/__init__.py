"""The data of a run: a scenario becomes a stream of resident tensors, and a stream batches."""
