"""The publish stage: the model card, and the run's folder on the Hub."""
