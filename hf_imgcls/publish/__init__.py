"""The publish stage: from a finished run to what others use: exported models, the model card, the Hub."""
