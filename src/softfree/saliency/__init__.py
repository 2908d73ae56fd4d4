"""From a prediction to a map of what it rests on."""
