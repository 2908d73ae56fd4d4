"""What is done with the features of many images: nearest cases, and regressions on frozen features."""
