"""The measure stage: metrics, scoring of saved folders, and the parity check."""
