"""Model configurations: plain data, one file per family."""
