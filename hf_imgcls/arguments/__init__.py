"""What a run is asked to do: fields, rules, and how they are read."""
