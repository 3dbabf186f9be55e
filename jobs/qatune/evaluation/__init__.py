"""What answers are worth: measures of each row, and whether a difference is more than chance."""
