"""Where datasets, adapters and answers lie: the only package that knows S3."""
