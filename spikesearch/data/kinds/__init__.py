"""The kinds of data, one file each: its keys in a study file, what reads it, and what ``study init`` makes of it."""
