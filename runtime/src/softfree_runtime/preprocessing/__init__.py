"""From an image or a volume to the array that an exported model takes, in numpy."""
