"""Getting the datasets onto the disk, in the folders that the configs read."""
