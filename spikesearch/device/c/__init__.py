"""Integer networks as C99 programs, with their own test."""
