"""The search of a study: the loop of a worker, the life of a trial, the pool of workers."""
