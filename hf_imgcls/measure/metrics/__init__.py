"""What is computed of scores and labels."""
