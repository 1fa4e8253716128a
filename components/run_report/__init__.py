"""What a person reads after a run: one page, one file of numbers, two pictures."""
