"""What a person sees of a study: the dashboard and the written report."""
