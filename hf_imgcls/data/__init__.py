"""The data stage: from any source of labelled images to batches of pixels."""
