"""The demonstration: phantom radiographs, and the main job from end to end on them."""
