"""Exports: the model as files of other runtimes, each of them measured against the PyTorch model on real images."""
