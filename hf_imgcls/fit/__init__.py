"""The fit stage: a model for the dataset's classes, and the Trainer that trains it."""
