"""What happens before the first step: rows for people, refusals, tests on the model, a dry run."""
