"""Images, volumes, slides and bags of tile features: from what was read to the tensor that a model sees."""
