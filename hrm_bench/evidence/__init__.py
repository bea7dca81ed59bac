"""What is measured of a model besides its score."""
