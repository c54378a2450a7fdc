"""From a run's folder to what others see of it: the model card."""
