"""Is a study in order? Diagnosis, verification, and how well inherited weights rank networks."""
