"""What the page shows: images, slices, tiles and maps as files for a browser, made in a worker."""
