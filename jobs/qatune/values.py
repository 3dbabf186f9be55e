"""What a values file of the chart says besides the recipe."""
