"""What a step will need and cost on devices that are not at hand."""
