"""The page that shows a run: one file that works offline."""
