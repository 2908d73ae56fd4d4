"""Files, folders and text tables: which samples they name, and where each of them is."""
