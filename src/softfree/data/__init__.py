"""From a file to a tensor: table, readers, transforms, dataset, phantoms."""
