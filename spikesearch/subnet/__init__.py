"""One network of a study: evaluated, extracted, trained by itself, exported."""
