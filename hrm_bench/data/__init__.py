"""Text, its vocabulary, and the windows that models are trained and scored on."""
